description = "HTTP router: learns routes over the bus and proxies requests to the instances behind them"

property "port" {
  type        = number
  default     = 8081
  description = "Port for requests, on the instance's own address"
  on_change   = "restart"
}

property "trace_key" {
  type        = string
  default     = ""
  description = "Value of the request header X-Vcap-Trace that asks for X-Vcap-Backend and X-Vcap-Router, which show addresses: a secret (vmc -t KEY sends it); \"\": none does"
}

property "trusted_fronts" {
  type        = list(string)
  description = "Networks of the load balancers, whose X-Forwarded-*, Forwarded and X-Request-Id are believed; from others they are replaced. Without it: nobody's if there is a front_key, else everybody's"

  validation {
    condition     = alltrue([for n in coalesce(property.trusted_fronts, []) : can(regex("^[0-9a-fA-F.:]+/[0-9]+$", n))])
    error_message = "Networks such as \"10.0.0.0/8\"."
  }
}

property "front_key" {
  type        = string
  default     = ""
  sensitive   = true
  description = "A secret by which load balancers are known, wherever they connect from: those of job nginx have the same front_key"

  validation {
    condition     = property.front_key == "" || can(regex("^[A-Za-z0-9_-]{16,200}$", property.front_key))
    error_message = "16 to 200 letters, digits, _ or -. A secret's value will do."
  }
}

property "access_log" {
  type        = bool
  default     = false
  description = "Log each request: id, client, host, app, instance, status and latency"
}

property "max_routes" {
  type        = number
  default     = 250000
  description = "Routes of all apps; registrations beyond it are ignored, with a warning"
  on_change   = "restart"

  validation {
    condition     = property.max_routes >= 1
    error_message = "1 or more."
  }
}

property "not_found_redirect" {
  type        = string
  default     = ""
  description = "Where requests for unknown hosts are redirected; \"\": they get a 404"
}

property "max_body_mb" {
  type        = number
  default     = 1024
  description = "Largest request body, MiB; 0: no limit"
}

property "answer_timeout_s" {
  type        = number
  default     = 150
  description = "Seconds that an app may take for the head of its answer, and pause in it, also on a WebSocket; less than the load balancer's answer_timeout_s"
  on_change   = "restart"

  validation {
    condition     = property.answer_timeout_s > 0
    error_message = "More than 0 seconds."
  }
}

property "instance_requests" {
  type        = number
  default     = 1000
  description = "Requests, WebSockets included, that one instance of an app may have at once from one router; more get a 503"
  on_change   = "restart"

  validation {
    condition     = property.instance_requests >= 1
    error_message = "1 or more."
  }
}

property "instance_uploads" {
  type        = number
  default     = 100
  description = "Of these, requests whose body is still on its way; more get a 503, so that slow uploads leave room for other requests"
  on_change   = "restart"

  validation {
    condition     = property.instance_uploads >= 1
    error_message = "1 or more."
  }
}

property "active_apps_every_s" {
  type        = number
  default     = 0
  description = "Seconds between two messages router.active_apps, which say which apps were asked for; 0: none"
  on_change   = "restart"

  validation {
    condition     = property.active_apps_every_s >= 0
    error_message = "0 or more seconds."
  }
}

property "expose_all_apps" {
  type        = bool
  default     = false
  description = "Let varz have the request rates of all host names, not just of the ten that are asked for most"
  on_change   = "restart"
}

property "drain_timeout_s" {
  type        = number
  default     = 30
  description = "Seconds that a router which leaves waits for requests and WebSockets in progress, before it cuts them"
  on_change   = "restart"

  validation {
    condition     = property.drain_timeout_s > 0 && property.drain_timeout_s <= 40
    error_message = "Above 0 and at most 40: the agent does not wait for a drain much longer."
  }
}

provides "router" {
  properties = ["port"]
}

bus {
  publish   = ["router.start", "router.active_apps"]
  subscribe = ["router.register", "router.unregister", "router.greet", "router.hosts"]
}

package "router" {
  program = "router"
}

template "router.yml" {
  destination = "router.yml"
  mode        = "0600" # holds the bus's password
  on_change   = "reload"
}

process "router" {
  command = ["${package.router.path}/router", "-c", "${path.config}/router.yml"]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "10s"

  # Beside the control socket: the port itself answers.
  check "http" {
    target = "http://${instance.address}:${property.port}/healthz"
  }
}

listen "http" {
  port = property.port
}
