# A cluster as it might stand in a data centre: three availability zones, two
# load balancers, five application servers with disks. It is a guide to the
# language; manifests/REFERENCE.md has every block and attribute.
#
#   bin/deploy validate examples/production.hcl
#   bin/deploy plan     examples/production.hcl --var app_instances=9
#
# Order does not matter: blocks may stand anywhere, also in several files of one
# folder. Names refer to blocks without quotes (vm.large, group.router).

deployment "production" {
  domain = var.domain # names of the applications are below it
}

# The only part that depends on where the VMs come from. "local" makes them on
# this machine, so that this file can be tried anywhere; with another template
# the settings are others and the rest stays.
infrastructure "local" {
  cidr    = var.cidr
  publish = { (var.listen) = "lb:8080" }
}

# Variables are set with --var name=value, --var-file FILE, or the environment
# (DEPLOY_VAR_name). One without a default must be set.
variable "domain" {
  type        = string
  default     = "production.localhost"
  description = "Where the applications are found"
}

variable "listen" {
  type    = string
  default = "127.0.0.1:8090"
}

variable "cidr" {
  type        = string
  default     = "127.43.0.0/24"
  description = "Where the VMs' addresses are taken from"

  validation {
    condition     = can(cidrhost(var.cidr, 40))
    error_message = "A range of at least 64 addresses, such as \"127.43.0.0/24\"."
  }
}

variable "app_instances" {
  type        = number
  default     = 5
  description = "How many application servers there are"

  validation {
    condition     = var.app_instances >= 3 && floor(var.app_instances) == var.app_instances
    error_message = "At least one in each of the three zones: 3 or more."
  }
}

variable "ports" {
  type = object({
    public = optional(number, 8080)
    router = optional(number, 8081)
  })
  default     = {}
  description = "Ports of the front"
}

# Locals give names to what is used more than once. Those that refer to groups
# or secrets can be used in properties only: they are known when VMs exist.
locals {
  zones   = ["z1", "z2", "z3"]
  routers = group.router.instances[*].address
}

# Jobs that are not built in: a folder with one folder a job.
release "examples" {
  path = "./jobs"
}

# Secrets are made once, kept in the deployment's state, and shown nowhere.
secret "bus" {
  type   = "password"
  length = 40
}

# By this the routers know their load balancers, and believe what these say of clients.
secret "front" { type = "password" }

secret "company" {
  type        = "ca"
  common_name = "Production CA"
}

secret "operator" {
  type        = "certificate"
  ca          = secret.company
  common_name = "operator"
  names       = ["operator.${var.domain}"]
}

# Sizes of machines. Options go to the template as they are.
vm "small" {
  cpus      = 1
  memory_mb = 1024
}

vm "large" {
  cpus      = 4
  memory_mb = 8192
  disk_gb   = 40
}

vm "huge" {
  cpus      = 16
  memory_mb = 65536
  disk_gb   = 40
  options   = { "flavor" = "compute-16" }
}

# A persistent disk for each instance of a group that names it. It outlives the
# VM that it is attached to.
disk "data" {
  size_gb = 50
}

# Addresses that must not change, because others have written them down:
# instance 0 gets the first one.
network "front" {
  static = [cidrhost(var.cidr, 20), cidrhost(var.cidr, 21)]
}

network "bus" {
  static = [for i in range(3) : cidrhost(var.cidr, 30 + i)]
}

# How changes reach running instances; a group may say otherwise below.
update {
  canaries         = 1          # first one instance, watched; a bad change ends here
  max_in_flight    = "20%"      # then so many at a time
  watch_time       = "5s-5m"    # at least, at most, to become healthy
  min_healthy_time = "20s"      # without a break
  on_failure       = "rollback" # the failed instance returns to what it was
}

# The message bus. Nothing works without it, so nobody removes it by mistake:
# with prevent_destroy, deploy refuses. Three of them are a cluster that goes on
# without any one.
group "nats" {
  instances       = 3
  vm              = vm.large
  azs             = local.zones
  disk            = disk.data
  network         = network.bus
  prevent_destroy = true

  job "nats" {
    properties {
      password     = secret.bus.value
      max_store_mb = 8192
    }
  }

  # A group may run several jobs; they start side by side.
  job "diagnosis" {
    properties {
      ca          = secret.company.certificate
      certificate = secret.operator.certificate
      private_key = secret.operator.private_key
    }
  }
}

# Spread over the zones in turn: router/0 in z1, router/1 in z2, and so on. The
# zone of an instance never changes.
group "router" {
  instances = 3
  vm        = vm.small
  azs       = local.zones

  job "router" {
    # The job needs a link of type "bus". One group provides it, so this line is
    # not needed; with two it would be.
    links = { bus = group.nats }

    properties {
      port      = var.ports.router
      front_key = secret.front.value
    }
  }

  update {
    max_in_flight = 1
  }
}

# Names that the load balancers serve: www with a certificate of the company's CA,
# for apps that are mapped to it, and its bare domain, which leads there. All names
# below the deployment's domain are the apps' without a block.
secret "www" {
  type  = "certificate"
  ca    = secret.company
  names = ["www.shop.example"]
}

domain "www.shop.example" {
  tls         = secret.www
  max_body_mb = 50

  path "/status" {
    answer { body = "open" }
  }
}

domain "shop.example" {
  redirect = "https://www.shop.example"
}

# Two load balancers with addresses that DNS has. They refer to the routers, so
# they start after them.
group "lb" {
  instances = 2
  vm        = vm.small
  azs       = ["z1", "z2"]
  network   = network.front

  job "nginx" {
    properties {
      routers     = local.routers
      front_key   = secret.front.value
      router_port = var.ports.router
      port        = var.ports.public
    }
  }

  update {
    max_in_flight = 1
    on_failure    = "halt" # look at it before it is put back
  }
}

# Names of instances and groups, for what reads no manifest, and the domain's own,
# where the parent zone delegates it.
group "dns" {
  instances = 2
  vm        = vm.small
  azs       = ["z1", "z2"]

  job "dns" {
    properties { load_balancers = group.lb.instances[*].address }
  }
}

# The application servers.
group "app" {
  instances  = var.app_instances
  vm         = vm.large
  azs        = local.zones
  disk       = disk.data
  depends_on = [group.router] # no reference says it, but nobody finds an app without routers

  job "hello" {
    properties {
      name     = "app"
      greeting = "Hello from ${instance.az}"
    }
  }

  job "diagnosis" {
    properties {
      ca          = secret.company.certificate
      certificate = secret.operator.certificate
      private_key = secret.operator.private_key
    }
  }

  update {
    canaries      = 2
    max_in_flight = "40%"
    on_failure    = "rollback_all"
  }

  # An exception for one index: it takes the largest application.
  instance "2" {
    vm = vm.huge
  }
}
