description = "Gateway of the service redis: the cloud controller asks it for instances, and it asks the nodes"

property "token" {
  type        = string
  required    = true
  sensitive   = true
  description = "Token that gateway and cloud controller share: the controller's builtin_services has the same for redis"
  on_change   = "restart"

  validation {
    condition     = length(property.token) >= 8
    error_message = "At least 8 characters."
  }
}

property "port" {
  type        = number
  default     = 9101
  description = "Port for the cloud controllers, on the instance's address"
  on_change   = "restart"
}

property "version" {
  type        = string
  default     = "7.0"
  description = "Version to offer; nodes announce the version of their server"
  on_change   = "restart"
}

property "description" {
  type        = string
  default     = "Redis key-value store"
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

bus {
  publish   = ["RaaS.discover", "RaaS.check_orphan", "RaaS.*.*"]
  subscribe = ["RaaS.announce", "RaaS.node_handles", "RaaS.handles", "RaaS.update_service_handle", "RaaS.leave.*"]
}

package "service_gateway" {
  program = "service_gateway"
}

template "gateway.yml" {
  destination = "gateway.yml"
  mode        = "0600" # holds passwords
  on_change   = "reload"
}

process "redis_gateway" {
  command = ["${package.service_gateway.path}/service_gateway", "-c", "${path.config}/gateway.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}

hook "errand" {
  name    = "check-orphans"
  command = ["${package.service_gateway.path}/service_gateway", "check-orphans", "-c", "${path.config}/gateway.yml"]
  timeout = "30m"
}

hook "errand" {
  name    = "migrate"
  command = ["${package.service_gateway.path}/service_gateway", "migrate", "-c", "${path.config}/gateway.yml"]
  timeout = "1h"
}

hook "errand" {
  name    = "purge-orphans"
  command = ["${package.service_gateway.path}/service_gateway", "purge-orphans", "-c", "${path.config}/gateway.yml"]
}

listen "gateway" {
  port = property.port
}
