description = "HTTP router: learns routes over the bus and proxies requests to the instances behind them"

property "port" {
  type        = number
  default     = 8081
  description = "Port for requests, on the instance's address"
  on_change   = "restart"
}

property "trace_key" {
  type        = string
  default     = ""
  description = "Secret value of the request header X-Vcap-Trace that makes the router answer with X-Vcap-Backend and X-Vcap-Router, which show addresses (`vmc -t KEY` sends it); \"\": tracing is off"
}

property "trusted_fronts" {
  type        = list(string)
  description = "Networks of the load balancers, whose X-Forwarded-*, Forwarded and X-Request-Id are believed; from others they are replaced. Without it: only of who shows the front_key"

  validation {
    condition     = alltrue([for n in coalesce(property.trusted_fronts, []) : can(regex("^[0-9a-fA-F.:]+/[0-9]+$", n))])
    error_message = "Networks such as \"10.0.0.0/8\"."
  }
}

property "front_key" {
  type        = string
  default     = ""
  sensitive   = true
  description = "Secret by which the router recognizes load balancers at any address; the job nginx has the same front_key"

  validation {
    condition     = property.front_key == "" || can(regex("^[A-Za-z0-9_-]{16,200}$", property.front_key))
    error_message = "16 to 200 letters, digits, _ or -. A secret's value will do."
  }
}

property "trust_everyone" {
  type        = bool
  default     = false
  description = "Without trusted_fronts and front_key, believe everybody who reaches the port, strangers included; true where a version up to 0.9 made the deployment, until it is set to false"

  earlier_default = true
}

property "access_log" {
  type        = bool
  default     = false
  description = "Log each request: id, client, host, app, instance, status and latency"
}

property "max_routes" {
  type        = number
  default     = 250000
  description = "Most routes of all apps together; registrations beyond it are ignored with a warning"
  on_change   = "restart"

  validation {
    condition     = property.max_routes >= 1
    error_message = "1 or more."
  }
}

property "not_found_redirect" {
  type        = string
  default     = ""
  description = "URL to which requests for unknown hosts are redirected; \"\": they get a 404"
}

property "max_body_mb" {
  type        = number
  default     = 1024
  description = "Largest request body, MiB; 0: no limit"
}

property "answer_timeout_s" {
  type        = number
  default     = 150
  description = "Longest wait for the head of an app's answer, and longest pause in the answer or on a WebSocket, seconds; less than the load balancer's answer_timeout_s"
  on_change   = "restart"

  validation {
    condition     = property.answer_timeout_s > 0
    error_message = "More than 0 seconds."
  }
}

property "instance_requests" {
  type        = number
  default     = 1000
  description = "Most requests of one router to one instance of an app at once, WebSockets included; more get a 503"
  on_change   = "restart"

  validation {
    condition     = property.instance_requests >= 1
    error_message = "1 or more."
  }
}

property "instance_uploads" {
  type        = number
  default     = 100
  description = "Most of these requests whose body is still arriving; more get a 503, so that slow uploads leave room for other requests"
  on_change   = "restart"

  validation {
    condition     = property.instance_uploads >= 1
    error_message = "1 or more."
  }
}

property "active_apps_every_s" {
  type        = number
  default     = 0
  description = "Seconds between two messages router.active_apps, which name the apps that had requests; 0: never"
  on_change   = "restart"

  validation {
    condition     = property.active_apps_every_s >= 0
    error_message = "0 or more seconds."
  }
}

property "expose_all_apps" {
  type        = bool
  default     = false
  description = "Report the request rates of all host names in varz, not only of the ten busiest"
  on_change   = "restart"
}

property "drain_timeout_s" {
  type        = number
  default     = 30
  description = "Longest wait of a stopping router for requests and WebSockets in progress, seconds; then it closes them"
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
  subscribe = ["router.register", "router.unregister", "router.greet", "router.hosts", "router.requests"]
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
