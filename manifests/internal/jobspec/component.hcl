# The blocks that `component = true` in a process block adds to a job, as far as
# the job does not have them itself. The base of components (jobs/component in
# this project) reads these settings and serves the control socket.

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

# The CA that the bus's own certificate is from.
certificate "bus" {}

template "bus-ca.pem" {
  on_change = "reload"
}

process "component" {
  control = true # readiness, drain and reload on the control socket

  # The answer, unlike a signal, says that the new files are in use.
  reload {
    control = true
  }
}
