description = "Node of the service rabbitmq: one RabbitMQ server, the VM's own, with a vhost for each instance and a user for each binding"

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

property "max_connections" {
  type        = number
  default     = 50
  description = "Connections to an instance at once; what is more is refused"
  on_change   = "restart"

  validation {
    condition     = property.max_connections >= 1 && property.max_connections <= 65535 && floor(property.max_connections) == property.max_connections
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_channels" {
  type        = number
  default     = 500
  description = "Channels of a user at once, over all its connections; what is more is refused"
  on_change   = "restart"

  validation {
    condition     = property.max_channels >= 1 && property.max_channels <= 65535 && floor(property.max_channels) == property.max_channels
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_queues" {
  type        = number
  default     = 50
  description = "Queues of an instance; what is more is refused"
  on_change   = "restart"

  validation {
    condition     = property.max_queues >= 1 && property.max_queues <= 65535 && floor(property.max_queues) == property.max_queues
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_queue_mb" {
  type        = number
  default     = 16
  description = "What a queue keeps, MiB; what would be more is refused to the publisher, and nothing is dropped"
  on_change   = "restart"

  validation {
    condition     = property.max_queue_mb >= 1 && property.max_queue_mb <= 65535 && floor(property.max_queue_mb) == property.max_queue_mb
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_message_mb" {
  type        = number
  default     = 8
  description = "Size of a message, MiB; a larger one is refused"
  on_change   = "restart"

  validation {
    condition     = property.max_message_mb >= 1 && property.max_message_mb <= 512 && floor(property.max_message_mb) == property.max_message_mb
    error_message = "A whole number from 1 to 512."
  }
}

property "memory_mb" {
  type        = number
  default     = 256
  description = "Memory of the server, MiB; above it publishers of all instances wait"
  on_change   = "restart"

  validation {
    condition     = property.memory_mb >= 128 && property.memory_mb <= 1048576 && floor(property.memory_mb) == property.memory_mb
    error_message = "A whole number from 128 to 1048576."
  }
}

property "port" {
  type        = number
  default     = 5672
  description = "Port of the server, on the node's own address"
  on_change   = "restart"
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
  default     = "rabbitmq"
  description = "Who runs the server where the agent is root; elsewhere the agent's own user does"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]*$", property.run_as)) && property.run_as != "root"
    error_message = "A user of the VM, and not root."
  }
}

bus {
  publish   = ["RMQaaS.announce", "RMQaaS.node_handles"]
  subscribe = ["RMQaaS.discover", "RMQaaS.check_orphan", "RMQaaS.*.*"] # the third is a node's id
}

package "rabbitmq_node" {
  program = "rabbitmq_node"
}

package "rabbitmq" {
  system = "rabbitmq-server"
  apt    = ["rabbitmq-server"]
}

template "rabbitmq_node.yml" {
  destination = "rabbitmq_node.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "rabbitmq_node" {
  command    = ["${package.rabbitmq_node.path}/rabbitmq_node", "-c", "${path.config}/rabbitmq_node.yml"]
  restart_on = [package.rabbitmq.path]
  kill_mode  = "process" # the node ends its servers, in order

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "30s"
}

listen "amqp" {
  port = property.port
}
