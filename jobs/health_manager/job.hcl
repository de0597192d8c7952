description = "Health manager: compares what DEAs report with what users want, and has missing instances started and extra ones stopped"

property "intervals" {
  type        = map(number)
  default     = {}
  description = "Times in seconds, fractions allowed, and counts, by the original's names; README.md lists them with their defaults"

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
  description = "Number of apps read from the cloud controller in one request"

  validation {
    condition     = property.batch_size >= 1 && property.batch_size <= 1000
    error_message = "Between 1 and 1000."
  }
}

consumes "cloud_controller" {}

bus {
  publish = [
    "healthmanager.start", "healthmanager.presence",
    "cloudcontrollers.hm.requests.*", "cloudcontroller.bulk.credentials.*",
  ]
  subscribe = [
    "healthmanager.status", "healthmanager.health", "healthmanager.droplet", "healthmanager.presence",
    "dea.heartbeat", "dea.advertise", "droplet.exited", "droplet.updated",
    "cloudcontrollers.hm.requests.*",
  ]
}

package "health_manager" {
  program = "health_manager"
}

template "health_manager.yml" {
  destination = "health_manager.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

# What this component shows the others, read for each connection.
template "internal.pem" {
  destination = "internal.pem"
  on_change   = "none"
}

template "internal.key" {
  destination = "internal.key"
  mode        = "0600"
  on_change   = "none"
}

process "health_manager" {
  command = ["${package.health_manager.path}/health_manager", "-c", "${path.config}/health_manager.yml"]

  # A reload changes neither the partition nor how often its presence is announced.
  restart_on = [link.cloud_controller.property.cc_partition, lookup(property.intervals, "presence", 1)]

  component = true # log_level, the bus with its CA, the control socket
}
