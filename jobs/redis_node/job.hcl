description = "Node of the service redis: a Redis server for each instance, the VM's own, with a user for each binding"

property "plan" {
  type        = string
  default     = "free"
  description = "What the node's instances are; the limits below are the plan's"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z0-9]+$", property.plan))
    error_message = "Lower-case letters and digits: it is part of the node's id."
  }
}

property "capacity" {
  type        = number
  default     = 50
  description = "How many instances the node takes"

  validation {
    condition     = property.capacity >= 0 && property.capacity <= 10000
    error_message = "Between 0 and 10000."
  }
}

property "disabled" {
  type        = bool
  default     = false
  description = "The node takes no new instance; those that it has are served"
}

property "max_memory_mb" {
  type        = number
  default     = 16
  description = "What an instance may keep, MiB; what would be more is refused, and nothing is dropped"
  on_change   = "restart"

  validation {
    condition     = property.max_memory_mb >= 1
    error_message = "At least 1."
  }
}

property "max_clients" {
  type        = number
  default     = 200
  description = "Connections to an instance at once; what is more is refused"
  on_change   = "restart"

  validation {
    condition     = property.max_clients >= 10
    error_message = "At least 10: the node's own are among them."
  }
}

property "append_fsync" {
  type        = string
  default     = "always"
  description = "When what is written is on the disk: always, before it is acknowledged; or everysec, which is faster and may lose the last second when the machine fails"
  on_change   = "restart"

  validation {
    condition     = contains(["always", "everysec"], property.append_fsync)
    error_message = "Either \"always\" or \"everysec\"."
  }
}

property "ports" {
  type        = string
  default     = "6400-6599"
  description = "Ports of the instances, on the node's own address; as many as capacity at least"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[0-9]+-[0-9]+$", property.ports))
    error_message = "A range of ports, as \"6400-6599\"."
  }
}

property "op_time_limit_s" {
  type        = number
  default     = 6
  description = "How long an operation may take, seconds; what takes longer is undone. Less than the gateway's node_timeout_s"
  on_change   = "restart"

  validation {
    condition     = property.op_time_limit_s > 0
    error_message = "Above 0."
  }
}

property "run_as" {
  type        = string
  default     = "redis"
  description = "Who runs the servers where the agent is root; elsewhere the agent's own user does"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]*$", property.run_as)) && property.run_as != "root"
    error_message = "A user of the VM, and not root."
  }
}

bus {
  publish   = ["RaaS.announce", "RaaS.node_handles"]
  subscribe = ["RaaS.discover", "RaaS.check_orphan", "RaaS.*.*"] # the third is a node's id
}

package "redis_node" {
  program = "redis_node"
}

package "redis" {
  system = "redis-server"
  apt    = ["redis-server"]
}

template "redis_node.yml" {
  destination = "redis_node.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "redis_node" {
  command    = ["${package.redis_node.path}/redis_node", "-c", "${path.config}/redis_node.yml"]
  restart_on = [package.redis.path]
  kill_mode  = "process" # the node ends its servers, in order

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "30s"
}
