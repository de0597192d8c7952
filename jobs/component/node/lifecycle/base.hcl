# What service nodes have whose instances move to other nodes and have snapshots.

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
