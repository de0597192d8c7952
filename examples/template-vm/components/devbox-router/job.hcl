description = "The router of a devbox image, with the image's configuration"

property "port" {
  type        = number
  default     = 8080
  description = "Port for requests, as devbox/config/router.yml has it"
}

consumes "bus" {}

# Every file of the image: a component that is started by hand finds the bus too.
mbus {
  files = ["devbox/config/*.yml"]
}

process "router" {
  command = ["${path.image}/devbox/bin/router", "-c", "${path.image}/devbox/config/router.yml"]
  control = true

  check "http" {
    target = "http://${instance.address}:${property.port}/healthz"
  }
}

listen "http" {
  port = property.port
}
