property "sites" {
  from = "domains"
  type = list(object({
    name        = string
    certificate = optional(string, "")
    key         = optional(string, "")
    https_only  = optional(bool, false)
    max_body_mb = optional(number)
    servers     = optional(list(string), [])
    redirect    = optional(string, "")
    paths = optional(list(object({
      path    = string
      target  = string
      servers = optional(list(string), [])
    })), [])
  }))
  default = []
}

property "domains" {
  type = list(string)
}

package "balancer" {
  system = "sh"
}

process "balancer" {
  command = [package.balancer.path, "-c", join(" ", [for s in property.sites : s.name])]
}
