description = "DEA: runs instances of apps, each with its own part of the machine"

property "max_memory_mb" {
  type        = number
  default     = 4096
  description = "What instances may use together, by the sum of their limits; it is never overcommitted"

  validation {
    condition     = property.max_memory_mb >= 1
    error_message = "At least 1 MB."
  }
}

property "max_clients" {
  type        = number
  default     = 1024
  description = "How many instances may start or run"

  validation {
    condition     = property.max_clients >= 1
    error_message = "At least 1."
  }
}

property "filer_port" {
  type        = number
  default     = 12345
  description = "Port of the file server, on the instance's own address"
}

property "ports" {
  type        = string
  default     = "20000-31999"
  description = "Ports that apps may be given, outside of those that the kernel gives to outgoing connections"

  validation {
    condition     = can(regex("^[0-9]+-[0-9]+$", property.ports))
    error_message = "A range of ports, as \"20000-31999\"."
  }
}

property "isolation" {
  type        = string
  default     = "namespaces"
  description = "What apps must have at least: processes (for users who trust each other only), namespaces or full; they get the best that the machine offers. README.md says what each is"

  validation {
    condition     = contains(["processes", "namespaces", "full"], property.isolation)
    error_message = "One of processes, namespaces, full."
  }
}

property "visible" {
  type        = list(string)
  default     = []
  description = "Folders of the VM that apps see, read only, beside the system's: runtimes that lie elsewhere"
}

property "processes" {
  type        = number
  default     = 512
  description = "How many processes an instance may have, threads included"
}

property "runtimes" {
  type        = list(string)
  default     = ["binary", "java", "node", "python", "ruby", "static"]
  description = "Runtimes that are advertised; which are really there is found out when an app asks for one"
}

property "prod" {
  type        = bool
  default     = null
  description = "true: for production apps only"
}

property "cc_partition" {
  type        = string
  default     = "default"
  description = "Of apps whose start message names none"
}

property "force_http_sharing" {
  type        = bool
  default     = false
  description = "Fetch droplets over HTTP although a shared folder has them"
}

property "disk_percent" {
  type        = number
  default     = 95
  description = "How full the disk may be before nothing new is taken"
}

property "cache_mb" {
  type        = number
  default     = 1024
  description = "How much of droplets that were used is kept"
}

property "max_droplet_mb" {
  type        = number
  default     = 1024
  description = "How large a droplet may be"
}

property "when_others_are_full" {
  type        = string
  default     = "refuse"
  description = "An update of a DEA moves its apps to the others. If those have no room: refuse (nothing is touched) or warn (those apps are down meanwhile)"

  validation {
    condition     = contains(["refuse", "warn"], property.when_others_are_full)
    error_message = "One of refuse, warn."
  }
}

property "intervals" {
  type        = map(number)
  default     = {}
  description = "Times in seconds, with fractions; README.md has them all with their defaults"

  validation {
    condition = length(setsubtract(keys(property.intervals), [
      "heartbeat", "advertise", "monitor", "crashes_reaper", "probe", "crash_lifetime", "port_timeout", "state_file_timeout",
      "download_timeout", "connection_timeout", "stop_timeout", "evacuation_delay", "settle_time",
    ])) == 0
    error_message = "An interval that the DEA does not know; jobs/dea/README.md has them all."
  }

  validation {
    condition     = alltrue([for value in values(property.intervals) : value >= 0])
    error_message = "No interval is negative."
  }
}

property "log_level" {
  type        = string
  default     = "info"
  description = "off, error, warn, info or debug"

  validation {
    condition     = contains(["off", "error", "warn", "info", "debug"], property.log_level)
    error_message = "One of off, error, warn, info, debug."
  }
}

consumes "bus" {}

package "dea" {
  program = "dea"
}

# The parent of each instance. It outlives the DEA, so an update of the DEA alone
# does not change it.
package "warden" {
  program = "warden"
}

# The CA that the bus's own certificate is from.
certificate "bus" {}

template "dea.yml" {
  destination = "dea.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

template "bus-ca.pem" {
  destination = "bus-ca.pem"
  on_change   = "reload"
}

# Whether the other DEAs have room for this one's apps is said before anything is
# touched. Where there is no DEA yet, there is nothing to ask.
hook "check" {
  command = [
    "/bin/sh", "-c", "test ! -e \"$1/dea.yml\" || exec \"$0\" check-evacuation -c \"$DEPLOY_STAGED/dea.yml\"",
    "${package.dea.path}/dea", path.config,
  ]
  timeout = "30s"
}

# Nothing is left to do when the DEA has drained. This hook's time is the drain's:
# apps start elsewhere (evacuation_delay), finish their requests
# (connection_timeout) and end (stop_timeout).
hook "drain" {
  command = ["/bin/true"]
  timeout = "180s"
}

process "dea" {
  command = ["${package.dea.path}/dea", "-c", "${path.config}/dea.yml"]

  # What a reload cannot change is repeated here, so that a change restarts.
  env = {
    RESTART_ON = jsonencode([
      property.max_memory_mb, property.max_clients, property.filer_port, property.ports, property.isolation, property.visible,
      property.processes, property.runtimes, property.prod, property.cc_partition, property.force_http_sharing,
      property.disk_percent, property.cache_mb, property.max_droplet_mb, property.intervals,
    ])
    WARDEN = package.warden.path
  }

  # Apps run on while the DEA itself is started again.
  kill_mode  = "process"
  control    = true # readiness, drain and reload on the control socket
  stop_grace = "15s"

  # The answer, unlike a signal, says that the new files are in use.
  reload {
    control = true
  }
}

listen "files" {
  port = property.filer_port
}
