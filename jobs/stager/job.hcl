description = "Stager: makes droplets of apps, which DEAs can run"

property "queues" {
  type        = list(string)
  default     = ["staging"]
  description = "Subjects of requests; each request goes to one stager of all that have the subject"

  validation {
    condition     = length(property.queues) > 0
    error_message = "At least one."
  }
}

property "max_staging_seconds" {
  type        = number
  default     = 110
  description = "How long a staging may take, waiting included; less than the controller waits (120)"

  validation {
    condition     = property.max_staging_seconds > 0
    error_message = "More than 0."
  }
}

property "max_active_tasks" {
  type        = number
  default     = 4
  description = "How many apps are staged side by side; others wait"

  validation {
    condition     = property.max_active_tasks >= 1
    error_message = "At least 1."
  }
}

property "max_app_mb" {
  type        = number
  default     = 512
  description = "Largest app as it is fetched, packed, MiB"
}

property "max_droplet_mb" {
  type        = number
  default     = 1024
  description = "Largest sum of an app's files, and of a droplet's, MiB"
}

property "fetch_dependencies" {
  type        = bool
  default     = false
  description = "Let npm, bundler and pip fetch what an app names and does not bring"
}

property "secure" {
  type        = bool
  default     = false
  description = "Run each plugin as a user of its own; the agent must be root's"
}

property "tomcat" {
  type        = string
  default     = ""
  description = "Home of the Tomcat that Java web apps get; \"\": Debian's, if the VM has one (tomcat10-common)"
}

property "plugins" {
  type        = map(string)
  default     = {}
  description = "Plugins of your own: framework to the absolute path of a program on the VM; README.md has the contract"
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

package "stager" {
  program = "stager"
}

# Goes into the droplets of static apps.
package "static_server" {
  program = "static_server"
}

# The CA that the bus's own certificate is from.
certificate "bus" {}

template "stager.yml" {
  destination = "stager.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

template "bus-ca.pem" {
  destination = "bus-ca.pem"
  on_change   = "reload"
}

process "stager" {
  command = ["${package.stager.path}/stager", "-c", "${path.config}/stager.yml"]

  # What a reload cannot change is repeated here, so that a change restarts.
  env = {
    RESTART_ON = jsonencode([
      property.queues, property.max_staging_seconds, property.max_active_tasks, property.max_app_mb, property.max_droplet_mb,
      property.fetch_dependencies, property.secure, property.tomcat, property.plugins, package.static_server.path,
    ])
  }

  kill_mode  = "group" # a plugin has a group of its own, and is ended by the stager
  control    = true    # readiness, drain and reload on the control socket
  stop_grace = "10s"

  # The answer, unlike a signal, says that the new files are in use.
  reload {
    control = true
  }
}

# The stager drains over its control socket; this is how long it may take to
# finish the stagings in progress.
hook "drain" {
  command = ["/bin/true"]
  timeout = "120s"
}
