description = "Node of the service mysql: one MariaDB server, from the VM's package, with a database for each instance and a user for each binding"
bases       = ["component/node", "component/node/lifecycle", "component/node/limits"]

# Gateways and apps' credentials know the node by this name.
unique "node_id" {
  value = "mysql_node_${property.plan}_${instance.index}"
}

property "capacity" {
  on_change = "restart" # the server has room for their connections
}

property "max_db_size_mb" {
  type        = number
  default     = 256
  description = "Size limit of a database's tables, MiB; above it its users can only read and delete, until it is below again"
  on_change   = "restart"

  validation {
    condition     = property.max_db_size_mb >= 1
    error_message = "At least 1."
  }
}

property "max_user_conns" {
  type        = number
  default     = 20
  description = "Most connections at once of a user, and of all users of an instance together; more are refused or ended"
  on_change   = "restart"

  validation {
    condition     = property.max_user_conns >= 1 && property.max_user_conns <= 1000
    error_message = "Between 1 and 1000."
  }
}

property "buffer_pool_mb" {
  type        = number
  default     = 64
  description = "Cache of the server for all instances, MiB; usually half of the VM's memory if nothing else runs there"
  on_change   = "restart"

  validation {
    condition     = property.buffer_pool_mb >= 8
    error_message = "At least 8."
  }
}

property "port" {
  type        = number
  default     = 3306
  description = "Port of the server, on the node's address; apps connect to it"
  on_change   = "restart"
}

property "run_as" { default = "mysql" }

bus {
  publish   = ["MyaaS.announce", "MyaaS.node_handles", "MyaaS.leave.*"]
  subscribe = ["MyaaS.discover", "MyaaS.check_orphan", "MyaaS.*.*"] # the third is a node's id
}

package "mysql_node" {
  program = "mysql_node"
}

package "mariadb" {
  system = "mariadbd"
  apt    = ["mariadb-server"]
}

template "mysql_node.yml" {
  destination = "mysql_node.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "mysql_node" {
  command    = ["${package.mysql_node.path}/mysql_node", "-c", "${path.config}/mysql_node.yml"]
  restart_on = [package.mariadb.path]
  kill_mode  = "process" # the node ends its server, in order

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "30s"
}

# Before the node is removed for good, its instances move to other nodes.
hook "pre_stop" {
  command = ["${package.mysql_node.path}/mysql_node", "leave", "-c", "${path.config}/mysql_node.yml"]
  timeout = "6h"
}

hook "census" {
  command = ["${package.mysql_node.path}/mysql_node", "census", "-c", "${path.config}/mysql_node.yml"]
  timeout = "10s"
}

listen "mysql" {
  port = property.port
}
