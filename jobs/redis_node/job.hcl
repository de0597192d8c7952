description = "Node of the service redis: one Redis process for each instance, from the VM's package, with a user for each binding"

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
  value = "redis_node_${property.plan}_${instance.index}"
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

property "migration_nfs" {
  type        = string
  default     = ""
  description = "Folder that all nodes of the service share (NFS), through which instances move from node to node; \"\": instances cannot move. It holds users' data while a move lasts"
  on_change   = "restart"

  validation {
    condition     = property.migration_nfs == "" || can(regex("^/", property.migration_nfs))
    error_message = "An absolute path."
  }
}

property "snapshots_dir" {
  type        = string
  default     = ""
  description = "Folder of the instances' snapshots: an absolute path, such as the mount of a disk of their own, or a name, for a folder on the group's disk. \"\": there are no snapshots"
  on_change   = "restart"

  validation {
    condition     = property.snapshots_dir == "" || can(regex("^(/.*|[A-Za-z0-9_-]+)$", property.snapshots_dir))
    error_message = "An absolute path, or a name of letters, digits, '_' and '-'."
  }
}

property "snapshots_max" {
  type        = number
  default     = 5
  description = "Most snapshots that the owner of an instance may have, not counting those of the schedule"
  on_change   = "restart"

  validation {
    condition     = property.snapshots_max >= 0 && property.snapshots_max <= 1000
    error_message = "Between 0 and 1000."
  }
}

property "snapshot_max_mb" {
  type        = number
  default     = 1024
  description = "Largest snapshot, MiB; one that would be larger fails"
  on_change   = "restart"

  validation {
    condition     = property.snapshot_max_mb >= 1 && property.snapshot_max_mb <= 1048576
    error_message = "Between 1 and 1048576."
  }
}

property "snapshot_time_limit_s" {
  type        = number
  default     = 1800
  description = "Longest snapshot or rollback, seconds; one that takes longer is ended and undone"
  on_change   = "restart"

  validation {
    condition     = property.snapshot_time_limit_s > 0 && property.snapshot_time_limit_s <= 86400
    error_message = "Above 0, at most a day."
  }
}

property "snapshot_every_h" {
  type        = number
  default     = 0
  description = "Hours between two scheduled snapshots of each instance; 0: none are scheduled"
  on_change   = "restart"

  validation {
    condition     = property.snapshot_every_h == 0 || property.snapshot_every_h >= 0.1 && property.snapshot_every_h <= 8760
    error_message = "0, or between 0.1 and 8760, a year."
  }

  validation {
    condition     = property.snapshot_every_h == 0 || property.snapshots_dir != ""
    error_message = "The schedule needs snapshots_dir."
  }
}

property "snapshot_keep" {
  type        = number
  default     = 7
  description = "Scheduled snapshots that are kept of each instance; the oldest is deleted when a newer one is there"
  on_change   = "restart"

  validation {
    condition     = property.snapshot_keep >= 1 && property.snapshot_keep <= 1000
    error_message = "Between 1 and 1000."
  }
}

property "run_as" {
  type        = string
  default     = "redis"
  description = "User that runs the servers if the agent is root; otherwise the agent's own user runs them"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]*$", property.run_as)) && property.run_as != "root"
    error_message = "A user of the VM, and not root."
  }
}

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
