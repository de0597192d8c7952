# A Cloud Foundry with one of each: the platform of cluster.hcl for a laptop that
# has other things to do. The cloud controller keeps its data in SQLite, and Redis is
# the service of apps.
#
#   bin/deploy apply   examples/cluster-small.hcl
#   bin/deploy destroy examples/cluster-small.hcl

deployment "cf" {
  domain = "cf.localhost"
}

infrastructure "local" {
  publish = { (var.listen) = "lb:8080" }
}

variable "listen" {
  type        = string
  default     = "127.0.0.1:8080"
  description = "Where the cluster's pages are found"
}

secret "nats" { type = "password" }
secret "cloud_controller" { type = "password" }
secret "redis" { type = "password" }

# By this the routers know their load balancers, and believe what these say of clients.
secret "front" { type = "password" }

vm "default" {
  cpus      = 1
  memory_mb = 512
}

vm "large" {
  cpus      = 2
  memory_mb = 2048
}

disk "data" { size_gb = 10 }

group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}

group "lb" {
  job "nginx" {
    properties {
      routers   = group.router.instances[*].address
      front_key = secret.front.value
    }
  }
}

group "router" {
  job "router" {
    properties {
      front_key = secret.front.value
    }
  }
}

group "cloud_controller" {
  disk = disk.data

  job "cloud_controller" {
    properties {
      external_uri = "api.${deployment.domain}"
      secret       = secret.cloud_controller.value

      builtin_services = { redis = secret.redis.value }

      # For a laptop: anyone who reaches the API may make an account.
      allow_registration = true
    }
  }
}

group "health_manager" {
  job "health_manager" {
    properties {
      intervals = { desired_state_update = 5, droplet_lost = 5, droplets_analysis = 1, restart_timeout = 4, min_restart_delay = 2, delay_time_noise = 0.5 }
    }
  }
}

group "stager" {
  vm = vm.large
  job "stager" {}
}

group "dea" {
  vm = vm.large

  job "dea" {
    properties {
      max_memory_mb = 1024
      intervals     = { heartbeat = 1, advertise = 1 }
      # With no other DEA its apps cannot move: an update takes them down.
      when_others_are_full = "warn"
    }
  }
}

# A service with one node. cluster.hcl has gateways and nodes on VMs of their own.
group "service" {
  disk = disk.data

  job "redis_gateway" {
    properties { token = secret.redis.value }
  }

  job "redis_node" {}
}
