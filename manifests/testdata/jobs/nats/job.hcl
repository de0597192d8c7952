description = "The message bus"

property "port" {
  type    = number
  default = 4222
}

property "password" {
  type      = string
  required  = true
  sensitive = true

  validation {
    condition     = length(property.password) > 3
    error_message = "The password is too short."
  }
}

provides "bus" {
  properties = ["port", "password"]
}

package "nats" {
  program = "nats"
}

certificate "server" {
  names = [instance.address, "nats.${deployment.name}.internal"]
}

template "nats.yml" {
  mode      = "0600"
  on_change = "reload"
}

process "nats" {
  command    = ["${package.nats.path}/nats", "-c", "${path.config}/nats.yml"]
  open_files = 65536
  stop_grace = "15s"

  check "tcp" {
    target = "${instance.address}:${property.port}"
  }

  reload {
    signal = "HUP"
    verify = ["${package.nats.path}/nats", "-verify"]
  }
}

listen "bus" {
  port = property.port
}
