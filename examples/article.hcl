# The whole picture of the article on the original (docs/protocol.md): the platform of
# cluster.hcl in small, and its services. A gateway a service in service_gateway, and
# two service nodes whose disks keep what users put into their instances.
#
#   bin/deploy apply examples/article.hcl
#   bin/vmc create-service redis guests, then push examples/apps/guestbook
#
# cluster.hcl says more about the platform's own groups.

deployment "article" {
  domain = "cf.localhost"
}

infrastructure "local" {
  # This address of this machine leads to port 8080 of the group lb.
  publish = { (var.listen) = "lb:8080" }
}

variable "listen" {
  type        = string
  default     = "127.0.0.1:8081"
  description = "Where the cluster's pages are found"
}

variable "deas" {
  type        = number
  default     = 1
  description = "How many DEAs run the apps"
}

# Made once, kept in the deployment's state, shown nowhere.
secret "nats" { type = "password" }
secret "database" { type = "password" }
secret "cloud_controller" { type = "password" }
secret "uaa" { type = "password" }
secret "uaa_controllers" { type = "password" }

# By this the routers know their load balancers, and believe what these say of clients.
secret "front" { type = "password" }

# What a gateway and the controllers prove themselves with to each other.
secret "redis" { type = "password" }
secret "memcached" { type = "password" }
secret "rabbitmq" { type = "password" }
secret "legacy" { type = "password" }

# What the company's old database is used with, which no node made.
secret "legacy_database" { type = "password" }
secret "postgresql" { type = "password" }
secret "mysql" { type = "password" }

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
  min_healthy_time = "3s"
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
  instances = 1
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

# Accounts, and tokens for them: vmc logs in here, and so can web pages (docs/uaa.md).
group "uaa" {
  instances = 1
  vm        = vm.small

  job "uaa" {
    properties {
      url               = "http://uaa.${deployment.domain}:${split(":", var.listen)[1]}"
      database          = "postgres"
      secret            = secret.uaa.value
      controller_secret = secret.uaa_controllers.value
    }
  }
}

# The API at api.cf.localhost.
group "cloud_controller" {
  instances = 1
  vm        = vm.small
  disk      = disk.data

  job "cloud_controller" {
    properties {
      external_uri = "api.${deployment.domain}"
      database     = "postgres"
      secret       = secret.cloud_controller.value
      accounts     = "uaa"

      # Whose gateways may offer them.
      builtin_services = {
        redis      = secret.redis.value
        memcached  = secret.memcached.value
        rabbitmq   = secret.rabbitmq.value
        legacy     = secret.legacy.value
        postgresql = secret.postgresql.value
        mysql      = secret.mysql.value
      }

      # For the demo, anyone who reaches the API may make an account. Leave this out
      # elsewhere: then only admins make accounts (admins, admin_password).
      allow_registration = true
    }
  }

  # The times are short ones, for a machine that is looked at; jobs/health_manager/README.md has the usual ones.
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

# Between the controllers and the nodes; apps do not pass here.
group "service_gateway" {
  instances = 1
  vm        = vm.small

  job "redis_gateway" {
    properties {
      token = secret.redis.value
    }
  }

  job "memcached_gateway" {
    properties {
      token = secret.memcached.value
    }
  }

  # What is elsewhere; these credentials are what apps get.
  job "service_broker" {
    properties {
      offerings = {
        legacy = {
          token       = secret.legacy.value
          description = "The database that was there before"
          plans = {
            free = { host = "db.example.com", port = 1521, username = "apps", password = secret.legacy_database.value }
          }
        }
      }
    }
  }

  job "rabbitmq_gateway" {
    properties {
      token = secret.rabbitmq.value
    }
  }

  job "postgresql_gateway" {
    properties {
      token = secret.postgresql.value
    }
  }

  job "mysql_gateway" {
    properties {
      token = secret.mysql.value
    }
  }
}

# Apps connect to these. What they keep is on the disk, and outlives the VM. So are the
# snapshots that users make of it (snapshots_dir); elsewhere, give those a disk of their own.
group "service_node" {
  instances = 2
  vm        = vm.large
  disk      = disk.data

  # An update is seconds without the instances of one node: one node at a time.
  # RabbitMQ begins slowly.
  update {
    max_in_flight = 1
    watch_time    = "0s-300s"
  }

  job "rabbitmq_node" {
    properties {
      capacity = 20
    }
  }

  job "redis_node" {
    properties {
      capacity      = 20
      snapshots_dir = "snapshots"
    }
  }

  job "memcached_node" {
    properties {
      capacity = 20
    }
  }

  job "postgresql_node" {
    properties {
      capacity      = 20
      snapshots_dir = "snapshots"
    }
  }

  job "mysql_node" {
    properties {
      capacity      = 20
      snapshots_dir = "snapshots"
    }
  }
}
