description = "Node of the service memcached: one memcached process for each instance, from the VM's package, with a user for each binding (SASL)"
bases       = ["component/node"]

# Gateways and apps' credentials know the node by this name.
unique "node_id" {
  value = "memcached_node_${property.plan}_${instance.index}"
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

property "run_as" { default = "memcache" }

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
