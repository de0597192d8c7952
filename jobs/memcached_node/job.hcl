description = "Node of the service memcached: one memcached process for each instance, from the VM's package, with a user for each binding (SASL)"

property "plan" {
  type        = string
  default     = "free"
  description = "Plan of the node's instances; the limits below belong to it"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z0-9]+$", property.plan))
    error_message = "Lower-case letters and digits: it is part of the node's id."
  }
}

# Gateways and apps' credentials know the node by this name.
unique "node_id" {
  value = "memcached_node_${property.plan}_${instance.index}"
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

property "max_memory_mb" {
  type        = number
  default     = 16
  description = "Memory of an instance, MiB; beyond it the oldest entries are evicted"
  on_change   = "restart"

  validation {
    condition     = property.max_memory_mb >= 2 && floor(property.max_memory_mb) == property.max_memory_mb
    error_message = "A whole number, at least 2."
  }
}

property "max_clients" {
  type        = number
  default     = 200
  description = "Most connections to an instance at once; more are refused"
  on_change   = "restart"

  validation {
    condition     = property.max_clients >= 2 && floor(property.max_clients) == property.max_clients
    error_message = "A whole number, at least 2."
  }
}

property "ports" {
  type        = string
  default     = "6600-6799"
  description = "Port range of the instances, on the node's address; at least as many as capacity"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[0-9]+-[0-9]+$", property.ports))
    error_message = "A range of ports, as \"6600-6799\"."
  }
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
  default     = "memcache"
  description = "User that runs the servers if the agent is root; otherwise the agent's own user runs them"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]*$", property.run_as)) && property.run_as != "root"
    error_message = "A user of the VM, and not root."
  }
}

bus {
  publish   = ["MemcachedaaS.announce", "MemcachedaaS.node_handles"]
  subscribe = ["MemcachedaaS.discover", "MemcachedaaS.check_orphan", "MemcachedaaS.*.*"] # the third is a node's id
}

package "memcached_node" {
  program = "memcached_node"
}

package "memcached" {
  system = "memcached"
  apt    = ["memcached", "libsasl2-modules"]
}

template "memcached_node.yml" {
  destination = "memcached_node.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "memcached_node" {
  command    = ["${package.memcached_node.path}/memcached_node", "-c", "${path.config}/memcached_node.yml"]
  restart_on = [package.memcached.path]
  kill_mode  = "process" # the node ends its servers, in order

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "30s"
}

hook "census" {
  command = ["${package.memcached_node.path}/memcached_node", "census", "-c", "${path.config}/memcached_node.yml"]
  timeout = "10s"
}
