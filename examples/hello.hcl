# A small cluster on this machine, to begin with: a message bus, a load balancer,
# three routers and three copies of a web server that answers at
# hello.cf.localhost. cluster.hcl is a whole platform.
#
#   bin/deploy plan    examples/hello.hcl       what would be done
#   bin/deploy apply   examples/hello.hcl       do it
#   bin/deploy status  examples/hello.hcl       how it is
#   curl http://hello.cf.localhost:8080/        who answers
#   bin/deploy destroy examples/hello.hcl       remove every trace
#
# Change anything below and apply again: only what is concerned moves.

deployment "hello" {
  # Names of the cluster's web servers are below this domain. Browsers and curl
  # take *.localhost for this machine, so no DNS is needed.
  domain = "cf.localhost"
}

# Where the VMs come from. "local" needs nothing installed and no root: a VM is
# a folder, an address of its own (127.40.x.y) and an SSH server. The rest of
# this file would be the same on real machines.
infrastructure "local" {
  # This address of this machine leads to port 8080 of the group lb.
  publish = { (var.listen) = "lb:8080" }
}

# Set with --var greeting=Welcome, a file (--var-file) or DEPLOY_VAR_greeting.
variable "listen" {
  type        = string
  default     = "127.0.0.1:8080"
  description = "Where the cluster's pages are found"
}

variable "greeting" {
  type        = string
  default     = "Hello"
  description = "What hello's page begins with"
}

variable "hellos" {
  type        = number
  default     = 3
  description = "How many instances of hello there are"
}

# Jobs that are not built in: a folder with one folder a job. hello is there.
release "examples" {
  path = "./jobs"
}

# Made once, kept in the deployment's state, shown nowhere.
secret "nats" {
  type = "password"
}

# By this the routers know their load balancer, and believe what it says of clients.
secret "front" {
  type = "password"
}

vm "small" {
  cpus      = 1
  memory_mb = 512
}

# How running groups take a change.
update {
  canaries         = 1          # first one instance, watched; a bad change ends here
  max_in_flight    = "34%"      # then so many at a time: of three, one
  watch_time       = "0s-60s"   # to become healthy
  min_healthy_time = "3s"       # without a break
  on_failure       = "rollback" # the failed instance returns to what it was
}

# The message bus. Routers learn over it who serves what, and the agents on the
# VMs report over it.
group "nats" {
  instances = 1
  vm        = vm.small

  job "nats" {
    properties {
      password = secret.nats.value
    }
  }
}

# The load balancer: nginx. It refers to the routers, so it is started after
# them, with their addresses. It serves all names below the deployment's domain;
# domain blocks add others.
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

# The routers pass each request on to an instance that has registered its host
# name. They find the bus by themselves: job router consumes the link "bus" that
# job nats provides.
group "router" {
  instances = 3
  vm        = vm.small

  job "router" {
    properties {
      front_key = secret.front.value
    }
  }
}

# The web server (examples/jobs/hello). Ask a few times: another instance
# answers. Change the greeting and apply: the plan shows the line that changes
# on each instance, and the servers take it without a restart.
group "hello" {
  instances = var.hellos
  vm        = vm.small

  job "hello" {
    properties {
      greeting = var.greeting
    }
  }
}
