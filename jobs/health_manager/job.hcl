description = "Health manager: keeps apps as their users want them, by what the DEAs report"

property "intervals" {
  type        = map(number)
  default     = {}
  description = "Times in seconds, with fractions, and numbers, by the original's names; README.md has them all with their defaults"

  validation {
    condition = length(setsubtract(keys(property.intervals), [
      "desired_state_update", "desired_state_lost", "droplet_lost", "droplets_analysis", "restart_timeout",
      "flapping_death", "flapping_timeout", "min_restart_delay", "max_restart_delay", "delay_time_noise", "giveup_crash_number",
      "queue_batch_size", "request_queue", "presence",
    ])) == 0
    error_message = "An interval that the health manager does not know; jobs/health_manager/README.md has them all."
  }

  validation {
    condition     = alltrue([for name, value in property.intervals : value >= 0 || name == "giveup_crash_number" && value == -1])
    error_message = "No interval is negative."
  }
}

property "batch_size" {
  type        = number
  default     = 200
  description = "Apps that are read from the cloud controller at once"

  validation {
    condition     = property.batch_size >= 1 && property.batch_size <= 1000
    error_message = "Between 1 and 1000."
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

consumes "cloud_controller" {}

package "health_manager" {
  program = "health_manager"
}

# The CA that the bus's own certificate is from.
certificate "bus" {}

template "health_manager.yml" {
  destination = "health_manager.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

template "bus-ca.pem" {
  destination = "bus-ca.pem"
  on_change   = "reload"
}

process "health_manager" {
  command = ["${package.health_manager.path}/health_manager", "-c", "${path.config}/health_manager.yml"]

  # What a reload cannot change is repeated here, so that a change restarts.
  env = {
    RESTART_ON = jsonencode([link.cloud_controller.property.cc_partition, lookup(property.intervals, "presence", 1)])
  }

  control = true # readiness, drain and reload on the control socket

  reload {
    control = true
  }
}
