property "host" {
  type     = string
  required = true
}

property "peers" {
  type    = list(string)
  default = []
}

property "limits" {
  type = object({
    connections = optional(number, 100)
    name        = string
  })
}

property "number" {
  type = number
}

consumes "bus" {
  optional = true
}

process "hello" {
  command = ["hello", "-host", property.host, "-index", instance.index]
  env     = { BUS = try(link.bus.instances[0].address, "") }
}
