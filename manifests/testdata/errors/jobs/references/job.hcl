property "port" {
  type    = number
  default = 1
  validation {
    condition     = instance.index > property.port # error: Reference not allowed here
    error_message = "x"
  }
}
consumes "bus" {}
package "router" { program = "router" }
certificate "server" { names = [certificate.server.ca] } # error: Reference not allowed here
template "t.yml" {}

process "router" {
  command = ["${package.rooter.path}/router", property.prot] # error: Unknown package; error: Unknown property
  env = {
    A = link.buss.instances[0].address # error: Unknown link
    B = link.bus.addresses             # error: Unknown attribute
    C = path.etc                       # error: Unknown path
    D = certificate.servr.ca           # error: Unknown certificate
    E = group.nats.instances           # error: Reference not allowed here
    F = instance.ip                    # error: Unknown attribute of an instance
    G = package.router.bin             # error: Unknown attribute
  }
  stop_grace = property.port # error: Reference not allowed here
}
