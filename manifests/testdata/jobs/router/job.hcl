property "port" {
  type    = number
  default = 8081

  validation {
    condition     = property.port > 0 && property.port < 65536
    error_message = "A port is between 1 and 65535."
  }
}

consumes "bus" {}

package "router" {
  program = "router"
}

template "router.yml" {
  destination = "config/router.yml"
}

process "router" {
  command = ["${package.router.path}/router", "-c", "${path.config}/config/router.yml"]
  env     = { A = "b" }
  user    = "router"
  dir     = path.data
  control = true

  check "exec" {
    command = ["true"]
  }
  reload {
    control = true
  }
}

hook "pre_start" {
  command = ["${package.router.path}/router", "migrate"]
}

hook "errand" {
  name       = "smoke"
  command    = ["true"]
  env        = { INDEX = instance.index }
  timeout    = "5s"
  on_timeout = "continue"
}

mbus {
  files = ["config/*.yml"]
}
