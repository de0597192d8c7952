description = "Offers services that run elsewhere: with credentials from the manifest, or through another broker"

property "offerings" {
  type = map(object({
    token       = string # the controller's builtin_services has the same
    version     = optional(string, "1.0")
    description = optional(string, "")
    plans       = optional(map(map(string)), {}) # for each plan what apps find in VCAP_SERVICES
    url         = optional(string, "")           # instead of plans: a broker that speaks the gateway API
    url_token   = optional(string, "")
    url_plans   = optional(list(string), ["free"])
  }))
  required    = true
  sensitive   = true
  description = "Services by name: lower-case letters, digits and '_'"
  on_change   = "restart"

  validation {
    condition     = length(property.offerings) > 0 && alltrue([for name, o in property.offerings : can(regex("^[a-z0-9_]+$", name)) && length(o.token) >= 8 && (length(o.plans) == 0) != (o.url == "")])
    error_message = "At least one service, each with a token of at least 8 characters and either plans or a url."
  }
}

property "port" {
  type        = number
  default     = 9106
  description = "Port for the cloud controllers and routers, on the instance's address"
  on_change   = "restart"
}

consumes "cloud_controller" {}

bus {
  publish   = ["router.register", "router.unregister", "router.greet"]
  subscribe = ["router.start"]
}

package "service_broker" {
  program = "service_broker"
}

template "service_broker.yml" {
  destination = "service_broker.yml"
  mode        = "0600" # holds passwords
  on_change   = "reload"
}

process "service_broker" {
  command = ["${package.service_broker.path}/service_broker", "-c", "${path.config}/service_broker.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}

listen "broker" {
  port = property.port
}
