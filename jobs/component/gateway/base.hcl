# What all service gateways have: see README.md. A job of a gateway has `bases = ["component/gateway"]`.

property "token" {
  type        = string
  required    = true
  sensitive   = true
  description = "Token that gateway and cloud controller share: the controller's builtin_services has the same for the service"
  on_change   = "restart"

  validation {
    condition     = length(property.token) >= 8
    error_message = "At least 8 characters."
  }
}

property "port" {
  type        = number
  description = "Port for the cloud controllers, on the instance's address"
  on_change   = "restart"
}

property "version" {
  type        = string
  description = "Version to offer; nodes announce the version of their server"
  on_change   = "restart"
}

property "description" {
  type        = string
  description = "Description in users' list of services"
  on_change   = "restart"
}

property "plans" {
  type        = list(string)
  default     = ["free"]
  description = "Plans to offer; each needs a node with that plan. The first is the default"
  on_change   = "restart"

  validation {
    condition     = length(property.plans) > 0
    error_message = "At least one."
  }
}

property "over_provisioned_plans" {
  type        = list(string)
  default     = []
  description = "Plans whose nodes are chosen even when their announced capacity is used up; a node still refuses what exceeds its own limit"
  on_change   = "restart"
}

property "node_timeout_s" {
  type        = number
  default     = 8
  description = "Longest wait for a node's operation, seconds; more than the node's op_time_limit_s"
  on_change   = "restart"

  validation {
    condition     = property.node_timeout_s > 0 && property.node_timeout_s < 15
    error_message = "Above 0 and below 15: the controller does not wait for the gateway longer than that."
  }
}

property "check_orphan_interval_s" {
  type        = number
  default     = 3600
  description = "Seconds between two checks for orphans; -1: only the errand check-orphans checks"
  on_change   = "restart"
}

property "double_check_orphan_interval_s" {
  type        = number
  default     = 300
  description = "Seconds between the two steps of a check"
  on_change   = "restart"

  validation {
    condition     = property.double_check_orphan_interval_s >= property.node_timeout_s
    error_message = "At least node_timeout_s: what is just being made is no orphan."
  }
}

consumes "cloud_controller" {}

package "service_gateway" {
  program = "service_gateway"
}

template "gateway.yml" {
  destination = "gateway.yml"
  mode        = "0600" # holds passwords
  on_change   = "reload"
}

hook "errand" {
  name    = "check-orphans"
  command = ["${package.service_gateway.path}/service_gateway", "check-orphans", "-c", "${path.config}/gateway.yml"]
  timeout = "30m"
}

hook "errand" {
  name    = "purge-orphans"
  command = ["${package.service_gateway.path}/service_gateway", "purge-orphans", "-c", "${path.config}/gateway.yml"]
}

listen "gateway" {
  port = property.port
}
