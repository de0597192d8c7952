# A whole Cloud Foundry of the first generation on this machine: a message bus,
# a load balancer, three routers, two cloud controllers with health managers
# beside them, PostgreSQL, a stager, three DEAs that run the apps, and two services
# for these: a gateway each, and two service nodes.
#
#   bin/deploy apply   examples/cluster.hcl      make it so
#   bin/deploy status  examples/cluster.hcl      how it is
#   bin/vmc target http://api.cf.localhost:8080  and then: register, push, ...
#   bin/deploy destroy examples/cluster.hcl      remove every trace
#
# cluster-small.hcl has one of each; article.hcl has all services and the user
# component; hello.hcl is the place to begin with the language.

deployment "cf" {
  # Apps and the API are below this domain. Browsers and curl take *.localhost
  # for this machine, so no DNS is needed.
  domain = "cf.localhost"
}

infrastructure "local" {
  # This address of this machine leads to port 8080 of the group lb.
  publish = { (var.listen) = "lb:8080" }
}

variable "listen" {
  type        = string
  default     = "127.0.0.1:8080"
  description = "Where the cluster's pages are found"
}

variable "deas" {
  type        = number
  default     = 3
  description = "How many DEAs run the apps"
}

# Made once, kept in the deployment's state, shown nowhere.
secret "nats" { type = "password" }
secret "database" { type = "password" }
secret "cloud_controller" { type = "password" }
secret "redis" { type = "password" }
secret "postgresql" { type = "password" }

# By this the routers know their load balancers, and believe what these say of clients.
secret "front" { type = "password" }

vm "small" {
  cpus      = 1
  memory_mb = 512
}

vm "large" {
  cpus      = 2
  memory_mb = 2048
}

# What is on a disk outlives its VM.
disk "data" { size_gb = 10 }

update {
  canaries         = 1
  max_in_flight    = "34%"
  watch_time       = "0s-60s"
  min_healthy_time = "1s"
  on_failure       = "rollback"
}

group "nats" {
  instances = 1
  vm        = vm.small

  job "nats" {
    properties {
      password = secret.nats.value
    }
  }
}

group "lb" {
  instances = 1
  vm        = vm.small

  job "nginx" {
    properties {
      routers   = group.router.instances[*].address
      front_key = secret.front.value
    }
  }
}

group "router" {
  instances = 3
  vm        = vm.small

  job "router" {
    properties {
      front_key = secret.front.value
    }
  }
}

group "postgres" {
  instances = 1
  vm        = vm.small
  disk      = disk.data

  job "postgres" {
    properties {
      password = secret.database.value
    }
  }
}

# The API at api.cf.localhost. Both controllers serve it; what is pushed to one
# is copied to the other.
group "cloud_controller" {
  instances = 2
  vm        = vm.small
  disk      = disk.data

  job "cloud_controller" {
    properties {
      external_uri = "api.${deployment.domain}"
      database     = "postgres"
      secret       = secret.cloud_controller.value

      # Services that apps may use, by name, with the tokens of their gateways.
      builtin_services = {
        redis      = secret.redis.value
        postgresql = secret.postgresql.value
      }

      # For the demo, anyone who reaches the API may make an account. Leave this out
      # elsewhere: then only admins make accounts (admins, admin_password).
      allow_registration = true
    }
  }

  # One of them acts, the other one is ready to. The times are short ones, for a
  # machine that is looked at; jobs/health_manager/README.md has the usual ones.
  job "health_manager" {
    properties {
      intervals = {
        desired_state_update = 5
        droplet_lost         = 5
        droplets_analysis    = 1
        restart_timeout      = 4
        flapping_death       = 3
        min_restart_delay    = 2
        max_restart_delay    = 60
        delay_time_noise     = 0.5
      }
    }
  }
}

# Turns what is pushed into what a DEA can run.
group "stager" {
  instances = 1
  vm        = vm.large

  job "stager" {}
}

# Runs the apps. Each DEA waits a little before it offers to run an instance, the
# longer the more it has: so an app's instances spread over all of them.
group "dea" {
  instances = var.deas
  vm        = vm.large

  # A DEA that is updated has its apps started elsewhere first.
  update { max_in_flight = 1 }

  job "dea" {
    properties {
      max_memory_mb = 1024
      intervals = {
        heartbeat = 1
        advertise = 1
      }
    }
  }
}

# A gateway a service: it takes the controllers' requests for instances and lets the
# nodes make them.
group "service_gateway" {
  instances = 1
  vm        = vm.small

  job "redis_gateway" {
    properties {
      token = secret.redis.value
    }
  }

  job "postgresql_gateway" {
    properties {
      token = secret.postgresql.value
    }
  }
}

# The instances themselves. Their data is on the disk; it outlives the VM.
group "service_node" {
  instances = 2
  vm        = vm.large
  disk      = disk.data

  # An update is seconds without the instances of one node: one node at a time.
  update { max_in_flight = 1 }

  job "redis_node" {
    properties { snapshots_dir = "snapshots" }
  }

  job "postgresql_node" {
    properties { snapshots_dir = "snapshots" }
  }
}
