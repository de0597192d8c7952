# What all service nodes have: see README.md. A job of a node has `bases = ["component/node"]`.

property "plan" {
  type        = string
  default     = "free"
  description = "Plan of the node's instances; the node's limits belong to it"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z0-9]+$", property.plan))
    error_message = "Lower-case letters and digits: it is part of the node's id."
  }
}

property "capacity" {
  type        = number
  default     = 50
  description = "Most instances of the node"

  validation {
    condition     = property.capacity >= 0 && property.capacity <= 10000
    error_message = "Between 0 and 10000."
  }
}

property "disabled" {
  type        = bool
  default     = false
  description = "Take no new instance; existing ones are served"
}

property "op_time_limit_s" {
  type        = number
  default     = 6
  description = "Longest operation, seconds; one that takes longer is undone. Less than the gateway's node_timeout_s"
  on_change   = "restart"

  validation {
    condition     = property.op_time_limit_s > 0
    error_message = "Above 0."
  }
}

property "run_as" {
  type        = string
  description = "User that runs the service's servers if the agent is root; otherwise the agent's own user runs them"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]*$", property.run_as)) && property.run_as != "root"
    error_message = "A user of the VM, and not root."
  }
}
