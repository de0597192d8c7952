# A cluster of clones, the way of the devbox: one VM was set up with every
# component, all others are copies of it. Each copy has the configuration of the
# first one, with the address of its message bus, which is no longer right. The
# agents rewrite just that, and start on each VM what this file puts there.
#
#   make build
#   examples/template-vm/fill.sh        puts the programs into the image
#   bin/deploy apply examples/template-vm/cluster.hcl
#   curl http://hello.devbox.localhost:8081/
#   bin/vmc target http://api.devbox.localhost:8081   and then: register, push, ...

deployment "devbox" {
  domain = "devbox.localhost"
}

infrastructure "local" {
  cidr    = "127.43.0.0/24"
  publish = { (var.listen) = "router:8080" }
}

variable "listen" {
  type        = string
  default     = "127.0.0.1:8081"
  description = "Where the pages are found"
}

# The jobs that run what is in the image.
release "components" {
  path = "./components"
}

secret "nats" {
  type = "password"
}

vm "bare" {}

# On `local` an image is a folder, and every VM gets a copy of it. On a cloud it
# is the name of what was made of the first VM.
vm "devbox" {
  image = "./image"
}

update {
  min_healthy_time = "1s"
}

group "nats" {
  instances = 1
  vm        = vm.bare

  job "nats" {
    properties {
      password        = secret.nats.value
      allow_plaintext = true # the components in the image know nothing of TLS
    }
  }
}

group "router" {
  instances = 2
  vm        = vm.devbox

  job "devbox-router" {}
}

group "hello" {
  instances = 2
  vm        = vm.devbox

  job "devbox-hello" {}
}

# Two components on one clone.
group "both" {
  instances = 1
  vm        = vm.devbox

  job "devbox-router" {}
  job "devbox-hello" {}
}

# The platform, each component on a clone of its own but for the health manager,
# which is beside the cloud controller.
group "cloud_controller" {
  instances = 1
  vm        = vm.devbox

  job "devbox-cloud_controller" {}
  job "devbox-health_manager" {}
}

group "stager" {
  instances = 1
  vm        = vm.devbox

  job "devbox-stager" {}
}

group "dea" {
  instances = 1
  vm        = vm.devbox

  job "devbox-dea" {}
}
