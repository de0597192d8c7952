description = "Node of the service redis: one Redis process for each instance, from the VM's package, with a user for each binding"
bases       = ["component/node", "component/node/lifecycle"]

# Gateways and apps' credentials know the node by this name.
unique "node_id" {
  value = "redis_node_${property.plan}_${instance.index}"
}

property "max_memory_mb" {
  type        = number
  default     = 16
  description = "Memory of an instance, MiB; a write beyond it is refused, and no data is evicted"
  on_change   = "restart"

  validation {
    condition     = property.max_memory_mb >= 1
    error_message = "At least 1."
  }
}

property "max_clients" {
  type        = number
  default     = 200
  description = "Most connections to an instance at once; more are refused"
  on_change   = "restart"

  validation {
    condition     = property.max_clients >= 10
    error_message = "At least 10: the node's own are among them."
  }
}

property "append_fsync" {
  type        = string
  default     = "always"
  description = "When a write reaches the disk: always, before it is acknowledged; everysec, which is faster and can lose the last second if the machine fails"
  on_change   = "restart"

  validation {
    condition     = contains(["always", "everysec"], property.append_fsync)
    error_message = "Either \"always\" or \"everysec\"."
  }
}

property "ports" {
  type        = string
  default     = "6400-6599"
  description = "Port range of the instances, on the node's address; at least as many as capacity"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[0-9]+-[0-9]+$", property.ports))
    error_message = "A range of ports, as \"6400-6599\"."
  }
}

property "run_as" { default = "redis" }

bus {
  publish   = ["RaaS.announce", "RaaS.node_handles", "RaaS.leave.*"]
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

# Before the node is removed for good, its instances move to other nodes.
hook "pre_stop" {
  command = ["${package.redis_node.path}/redis_node", "leave", "-c", "${path.config}/redis_node.yml"]
  timeout = "6h"
}

hook "census" {
  command = ["${package.redis_node.path}/redis_node", "census", "-c", "${path.config}/redis_node.yml"]
  timeout = "10s"
}
