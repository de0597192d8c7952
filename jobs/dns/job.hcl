description = "Name server of the deployment: the domain's names resolve to the load balancers, and every instance and group has a name"

property "port" {
  type        = number
  default     = 53
  description = "Port for UDP and TCP, on the instance's address"
  on_change   = "restart"
}

property "load_balancers" {
  type        = list(string)
  default     = []
  description = "Addresses of the deployment's domain, of all names below it, and of zones: such as group.lb.instances[*].address, or a virtual address"

  validation {
    condition     = alltrue([for a in property.load_balancers : can(regex("^[0-9a-fA-F.:]+$", a))])
    error_message = "IP addresses."
  }
}

property "zones" {
  type        = list(string)
  default     = []
  description = "Further domains to answer for, such as \"shop.example\""

  validation {
    condition     = alltrue([for z in property.zones : can(regex("^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$", z))])
    error_message = "Domains such as \"shop.example\"."
  }
}

property "name_servers" {
  type        = list(string)
  default     = []
  description = "Names of the name servers in the parent zones; if not set: ns0., ns1. and so on of each zone, the addresses of this group's instances"

  validation {
    condition     = alltrue([for n in property.name_servers : can(regex("^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)+[.]?$", n))])
    error_message = "Host names such as \"ns1.example.com\"."
  }
}

property "ttl_s" {
  type        = number
  default     = 5
  description = "Seconds that clients may cache an answer; a failed member keeps getting requests for so long"

  validation {
    condition     = property.ttl_s >= 0 && property.ttl_s <= 86400
    error_message = "Between 0 and 86400 seconds."
  }
}

property "update_key" {
  type        = string
  default     = ""
  sensitive   = true
  on_change   = "restart"
  description = "Key with which the deployer sets the records that prove \"*.\" domains to a CA (dns-01): a secret's value; \"\": updates are refused"
}

property "instances" {
  from        = "instances"
  type        = list(object({ id = string, group = string, index = number, az = string, address = string }))
  default     = []
  description = "All instances of the deployment"
}

provides "dns" {
  properties = ["port", "update_key", "zones"]
}

bus {
  subscribe = ["heartbeat.*.*"]
}

package "dns" {
  program = "dns"
}

template "dns.yml" {
  destination = "dns.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "dns" {
  command = ["${package.dns.path}/dns", "-c", "${path.config}/dns.yml"]

  component = true # log_level, the bus with its CA, the control socket

  check "tcp" {
    target = "${instance.address}:${property.port}"
  }
}

listen "dns" {
  port    = property.port
  network = "udp"
}

listen "dns_tcp" {
  port = property.port
}
