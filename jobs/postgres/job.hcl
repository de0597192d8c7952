description = "PostgreSQL from the VM's package, with one database for the platform"

property "database" {
  type        = string
  default     = "cloud_controller"
  description = "Name of the database, created at the first start"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_]{0,47}$", property.database)) && !contains(["postgres", "template0", "template1"], property.database)
    error_message = "Lower-case letters, digits and '_', at most 48; not PostgreSQL's own."
  }
}

property "user" {
  type        = string
  default     = "cloud_controller"
  description = "Role that owns the database and connects to it"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_]{0,62}$", property.user)) && !startswith(property.user, "pg_") && property.user != "postgres"
    error_message = "Lower-case letters, digits and '_', at most 63; not one of PostgreSQL's own roles."
  }
}

property "password" {
  type        = string
  required    = true
  sensitive   = true
  description = "Password of the role; a reload applies a new one, and connections stay"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.~-]+$", property.password))
    error_message = "The password stands in URIs: letters, digits, '_', '.', '~' and '-' only, at least one."
  }
}

property "port" {
  type        = number
  default     = 5432
  description = "Port for clients, on the instance's address"
  on_change   = "restart"
}

property "allow_from" {
  type        = list(string)
  default     = ["0.0.0.0/0", "::/0"]
  description = "Networks from which clients may connect, such as \"10.0.0.0/8\""

  validation {
    condition     = alltrue([for network in property.allow_from : can(regex("^[0-9A-Fa-f.:]+/[0-9]+$", network))])
    error_message = "Networks as \"10.0.0.0/8\"."
  }
}

property "require_tls" {
  type        = bool
  default     = true
  description = "Refuse clients that do not encrypt"
}

property "run_as" {
  type        = string
  default     = "postgres"
  description = "User that runs the server if the agent is root; otherwise the agent's own user runs it"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]*$", property.run_as)) && property.run_as != "root"
    error_message = "A user of the VM, and not root: PostgreSQL refuses to run as it."
  }
}

property "max_connections" {
  type        = number
  default     = 100
  description = "Most connections at once"
  on_change   = "restart"
}

property "shared_buffers_mb" {
  type        = number
  default     = 64
  description = "Cache of the server (shared_buffers), MiB; usually a quarter of the VM's memory"
  on_change   = "restart"
}

property "settings" {
  type        = map(string)
  default     = {}
  description = "Further parameters of postgresql.conf; PostgreSQL restarts if one of them needs it"

  validation {
    condition     = alltrue([for name, value in property.settings : can(regex("^[a-z_][a-z0-9_.]*$", name))])
    error_message = "A parameter's name has lower-case letters, digits, '_' and '.'."
  }

  validation {
    condition = length(setintersection(keys(property.settings), [
      "config_file", "data_directory", "external_pid_file", "hba_file", "ident_file", "include", "include_dir", "include_if_exists",
      "listen_addresses", "logging_collector", "max_connections", "port", "shared_buffers", "ssl", "ssl_cert_file", "ssl_key_file",
      "unix_socket_directories", "unix_socket_group", "unix_socket_permissions",
    ])) == 0
    error_message = "Where the server listens, its files, TLS, and its log are the job's; port, max_connections and shared_buffers_mb are properties."
  }
}

property "backups" {
  type        = number
  default     = 7
  description = "Number of backups to keep"

  validation {
    condition     = property.backups >= 1
    error_message = "At least one."
  }
}

provides "postgres" {
  properties = ["port", "database", "user", "password"]
}

# Debian's; the server itself is not on PATH. postgres.sh check looks for it.
package "postgresql" {
  system = "pg_ctlcluster"
  apt    = ["postgresql"]
}

certificate "server" {
  names = ["postgres.${deployment.name}.internal"]
}

template "postgres.sh" {
  destination = "postgres.sh"
  on_change   = "restart"
}

template "postgres.env" {
  destination = "postgres.env"
  on_change   = "reload"
}

template "postgresql.conf" {
  destination = "postgresql.conf"
  on_change   = "reload"
}

template "pg_hba.conf" {
  destination = "pg_hba.conf"
  on_change   = "reload"
}

template "roles.sql" {
  destination = "roles.sql"
  mode        = "0600" # holds the password
  on_change   = "reload"
}

template "server.pem" {
  destination = "server.pem"
  on_change   = "reload"
}

template "server.key" {
  destination = "server.key"
  mode        = "0600"
  on_change   = "reload"
}

hook "check" {
  command = ["/bin/sh", "-c", "exec /bin/sh \"$DEPLOY_STAGED/postgres.sh\" check"]
  timeout = "20s"
}

# Makes the database cluster and roles, when they are not there. A server that
# crashed recovers here, which takes as long as it takes.
hook "pre_start" {
  command = ["/bin/sh", "${path.config}/postgres.sh", "init"]
  timeout = "10m"
}

process "postgres" {
  command     = ["/bin/sh", "${path.config}/postgres.sh", "run"]
  kill_mode   = "process" # the postmaster ends the others
  stop_signal = "INT"     # fast shutdown: open transactions are rolled back
  stop_grace  = "60s"

  # Of the settings, those that PostgreSQL takes at its start only: context
  # "postmaster" (select name from pg_settings).
  restart_on = {
    for name, value in property.settings : name => value if contains([
      "archive_mode", "autovacuum_freeze_max_age", "autovacuum_max_workers", "autovacuum_multixact_freeze_max_age", "bonjour", "bonjour_name",
      "cluster_name", "data_sync_retry", "dynamic_shared_memory_type", "event_source", "hot_standby", "huge_page_size", "huge_pages",
      "jit_provider", "max_files_per_process", "max_locks_per_transaction", "max_logical_replication_workers", "max_pred_locks_per_transaction",
      "max_prepared_transactions", "max_replication_slots", "max_wal_senders", "max_worker_processes", "min_dynamic_shared_memory",
      "old_snapshot_threshold", "recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn",
      "recovery_target_name", "recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "shared_memory_type",
      "shared_preload_libraries", "superuser_reserved_connections", "track_activity_query_size", "track_commit_timestamp", "wal_buffers",
      "wal_decode_buffer_size", "wal_level", "wal_log_hints",
    ], name)
  }

  check "exec" {
    command  = ["/bin/sh", "${path.config}/postgres.sh", "ready"]
    interval = "2s"
    timeout  = "5s"
  }

  # The command says whether the new files are in use.
  reload {
    command = ["/bin/sh", "${path.config}/postgres.sh", "reload"]
    timeout = "30s"
  }
}

# Databases with tables. Only a server that runs can say it.
hook "census" {
  command = ["/bin/sh", "${path.config}/postgres.sh", "census"]
  timeout = "20s"
}

hook "errand" {
  name    = "backup"
  command = ["/bin/sh", "${path.config}/postgres.sh", "backup"]
  timeout = "1h"
}

hook "errand" {
  name    = "restore"
  command = ["/bin/sh", "${path.config}/postgres.sh", "restore"]
  timeout = "4h"
}

listen "postgres" {
  port = property.port
}
