description = "The web server of a devbox image, with the image's configuration"

property "port" {
  type        = number
  default     = 8082
  description = "Port for requests, as devbox/config/hello.yml has it"
}

consumes "bus" {}

mbus {
  files = ["devbox/config/*.yml"]
}

process "hello" {
  command = ["${path.image}/devbox/bin/hello", "-c", "${path.image}/devbox/config/hello.yml"]
  control = true
}

listen "http" {
  port = property.port
}
