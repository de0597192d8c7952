description = "Node of the service rabbitmq: one RabbitMQ server, from the VM's package, with a vhost for each instance and a user for each binding"
bases       = ["component/node"]

# Gateways and apps' credentials know the node by this name.
unique "node_id" {
  value = "rabbitmq_node_${property.plan}_${instance.index}"
}

property "max_connections" {
  type        = number
  default     = 50
  description = "Most connections to an instance at once; more are refused"
  on_change   = "restart"

  validation {
    condition     = property.max_connections >= 1 && property.max_connections <= 65535 && floor(property.max_connections) == property.max_connections
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_channels" {
  type        = number
  default     = 500
  description = "Most channels of a user at once, over all its connections; more are refused"
  on_change   = "restart"

  validation {
    condition     = property.max_channels >= 1 && property.max_channels <= 65535 && floor(property.max_channels) == property.max_channels
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_queues" {
  type        = number
  default     = 50
  description = "Most queues of an instance; more are refused"
  on_change   = "restart"

  validation {
    condition     = property.max_queues >= 1 && property.max_queues <= 65535 && floor(property.max_queues) == property.max_queues
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_queue_mb" {
  type        = number
  default     = 16
  description = "Size limit of a queue, MiB; a publish beyond it is refused, and no message is dropped"
  on_change   = "restart"

  validation {
    condition     = property.max_queue_mb >= 1 && property.max_queue_mb <= 65535 && floor(property.max_queue_mb) == property.max_queue_mb
    error_message = "A whole number from 1 to 65535."
  }
}

property "max_message_mb" {
  type        = number
  default     = 8
  description = "Size limit of a message, MiB; a larger one is refused"
  on_change   = "restart"

  validation {
    condition     = property.max_message_mb >= 1 && property.max_message_mb <= 512 && floor(property.max_message_mb) == property.max_message_mb
    error_message = "A whole number from 1 to 512."
  }
}

property "memory_mb" {
  type        = number
  default     = 256
  description = "Memory limit of the server, MiB; above it publishers of all instances wait"
  on_change   = "restart"

  validation {
    condition     = property.memory_mb >= 128 && property.memory_mb <= 1048576 && floor(property.memory_mb) == property.memory_mb
    error_message = "A whole number from 128 to 1048576."
  }
}

property "port" {
  type        = number
  default     = 5672
  description = "Port of the server, on the node's address"
  on_change   = "restart"
}

property "run_as" { default = "rabbitmq" }

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

hook "census" {
  command = ["${package.rabbitmq_node.path}/rabbitmq_node", "census", "-c", "${path.config}/rabbitmq_node.yml"]
  timeout = "10s"
}

listen "amqp" {
  port = property.port
}
