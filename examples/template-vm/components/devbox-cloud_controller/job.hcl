description = "The cloud controller of a devbox image, with the image's configuration"

property "port" {
  type        = number
  default     = 9022
  description = "Port for requests, as devbox/config/cloud_controller.yml has it"
}

consumes "bus" {}

mbus {
  files = ["devbox/config/*.yml"]
}

process "cloud_controller" {
  command = ["${path.image}/devbox/bin/cloud_controller", "-c", "${path.image}/devbox/config/cloud_controller.yml"]
  control = true

  check "http" {
    target = "http://${instance.address}:${property.port}/info"
  }
}

listen "http" {
  port = property.port
}
