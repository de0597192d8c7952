description = "Node of the service postgresql: one PostgreSQL server, from the VM's package, with a database for each instance and a role for each binding"
bases       = ["component/node", "component/node/lifecycle", "component/node/limits"]

# Gateways and apps' credentials know the node by this name.
unique "node_id" {
  value = "postgresql_node_${property.plan}_${instance.index}"
}

property "capacity" {
  on_change = "restart" # the server has room for their connections
}

property "max_db_size_mb" {
  type        = number
  default     = 256
  description = "Size limit of a database, MiB, including 8 of the server's own; above it its users can only read and delete, until it is below again"
  on_change   = "restart"

  validation {
    condition     = property.max_db_size_mb >= 10
    error_message = "At least 10: an empty database has 8."
  }
}

property "max_db_conns" {
  type        = number
  default     = 20
  description = "Most connections to a database at once; more are refused. The server accepts capacity times as many"
  on_change   = "restart"

  validation {
    condition     = property.max_db_conns >= 1 && property.max_db_conns <= 1000
    error_message = "Between 1 and 1000."
  }
}

property "temp_file_limit_mb" {
  type        = number
  default     = 256
  description = "Size limit of one session's temporary files, MiB, such as those of a sort that does not fit into memory"
  on_change   = "restart"

  validation {
    condition     = property.temp_file_limit_mb >= 1
    error_message = "At least 1."
  }
}

property "shared_buffers_mb" {
  type        = number
  default     = 64
  description = "Cache of the server for all instances, MiB; usually a quarter of the VM's memory"
  on_change   = "restart"

  validation {
    condition     = property.shared_buffers_mb >= 1
    error_message = "At least 1."
  }
}

property "port" {
  type        = number
  default     = 5432
  description = "Port of the server, on the node's address; apps connect to it"
  on_change   = "restart"
}

property "run_as" { default = "postgres" }

bus {
  publish   = ["AuaaS.announce", "AuaaS.node_handles", "AuaaS.leave.*"]
  subscribe = ["AuaaS.discover", "AuaaS.check_orphan", "AuaaS.*.*"] # the third is a node's id
}

package "postgresql_node" {
  program = "postgresql_node"
}

# Debian's; the server itself is not on PATH. The node looks for it, of the version
# that its data is from.
package "postgresql" {
  system = "pg_ctlcluster"
  apt    = ["postgresql"]
}

template "postgresql_node.yml" {
  destination = "postgresql_node.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "postgresql_node" {
  command   = ["${package.postgresql_node.path}/postgresql_node", "-c", "${path.config}/postgresql_node.yml"]
  kill_mode = "process" # the node ends its server, in order

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "30s"
}

# Before the node is removed for good, its instances move to other nodes.
hook "pre_stop" {
  command = ["${package.postgresql_node.path}/postgresql_node", "leave", "-c", "${path.config}/postgresql_node.yml"]
  timeout = "6h"
}

hook "census" {
  command = ["${package.postgresql_node.path}/postgresql_node", "census", "-c", "${path.config}/postgresql_node.yml"]
  timeout = "10s"
}

listen "postgresql" {
  port = property.port
}
