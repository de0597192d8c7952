description = "A small web server that answers at hello.<domain>: the smallest job that does everything a component does"

property "name" {
  type        = string
  default     = "hello"
  description = "First part of the host name"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", property.name))
    error_message = "A label of a host name: lower-case letters, digits and '-' within."
  }
}

property "greeting" {
  type        = string
  default     = "Hello"
  description = "What the page begins with; a change is a reload"
}

property "port" {
  type        = number
  default     = 8082
  description = "Port for requests, on the instance's address"
  on_change   = "restart"
}

# Its route is all that it talks about.
bus {
  publish   = ["router.register", "router.unregister", "router.greet"]
  subscribe = ["router.start"]
}

# The program, as built for the VM's platform.
package "hello" {
  program = "hello"
}

template "hello.yml" {
  destination = "hello.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "hello" {
  command = ["${package.hello.path}/hello", "-c", "${path.config}/hello.yml"]

  component = true # log_level, the bus with its CA, the control socket
}

listen "http" {
  port = property.port
}
