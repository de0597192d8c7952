description = "Load balancer: nginx in front of all routers"

property "domains" {
  type        = list(string)
  required    = true
  description = "Host names that are passed on, \"*.\" for all below a domain; others get a 404"

  validation {
    condition     = length(property.domains) > 0 && alltrue([for d in property.domains : can(regex("^([*][.])?[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$", d))])
    error_message = "At least one host name such as \"www.example.com\" or \"*.example.com\"."
  }
}

property "routers" {
  type        = list(string)
  required    = true
  description = "Addresses of the routers"

  validation {
    condition     = length(property.routers) > 0
    error_message = "At least one router."
  }
}

property "router_port" {
  type        = number
  default     = 8081
  description = "Port of the routers"
}

property "port" {
  type        = number
  default     = 8080
  description = "Port for requests, on the instance's own address"
  on_change   = "restart" # a reload onto a taken port keeps the old configuration silently
}

property "max_body_mb" {
  type        = number
  default     = 1024
  description = "Largest request body, MiB; 0: no limit"
}

property "answer_timeout_s" {
  type        = number
  default     = 150
  description = "Seconds that a router may pause in its answer; more than the routers' own answer_timeout_s, so that they say who was late"

  validation {
    condition     = property.answer_timeout_s > 0
    error_message = "More than 0 seconds."
  }
}

property "client_requests" {
  type        = number
  default     = 256
  description = "Requests, WebSockets included, that a client's address may have at once; more get a 429"

  validation {
    condition     = property.client_requests >= 1
    error_message = "1 or more."
  }
}

property "host_requests" {
  type        = number
  default     = 2048
  description = "Requests, WebSockets included, that a host name may have at once; more get a 429"

  validation {
    condition     = property.host_requests >= 1
    error_message = "1 or more."
  }
}

property "workers" {
  type        = number
  default     = 2
  description = "Worker processes"
}

property "access_log" {
  type        = bool
  default     = false
  description = "Log each request, to the process's own log"
}

# Debian's nginx; any of 1.22 or later will do.
package "nginx" {
  system = "nginx"
  apt    = ["nginx-light"]
}

template "nginx.conf" {
  destination = "nginx.conf"
  on_change   = "reload"
}

template "pages.conf" {
  destination = "pages.conf"
  on_change   = "reload"
}

template "reloaded.sh" {
  destination = "reloaded.sh"
  on_change   = "reload"
}

# nginx tells what is wrong with a file better than anyone: before it is used.
hook "check" {
  command = [
    "/bin/sh", "-c", "mkdir -p \"$1\" \"$2\" && exec \"$0\" -t -q -e stderr -p \"$2\" -c \"$DEPLOY_STAGED/nginx.conf\"",
    package.nginx.path, path.run, path.data,
  ]
  timeout = "20s"
}

process "nginx" {
  command     = [package.nginx.path, "-e", "stderr", "-p", path.data, "-c", "${path.config}/nginx.conf"]
  stop_signal = "QUIT" # finishes requests in progress
  stop_grace  = "30s"

  check "http" {
    target = "http://${instance.address}:${property.port}/.deploy/health"
  }

  # The signal says nothing of its outcome, so the reload is believed when the
  # new configuration answers.
  reload {
    signal  = "HUP"
    verify  = ["/bin/bash", "${path.config}/reloaded.sh"]
    timeout = "15s"
  }
}

listen "http" {
  port = property.port
}
