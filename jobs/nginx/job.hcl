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
  default     = 180
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
  type        = string
  default     = "off"
  description = "Log each request to the process's own log, its time, id, client, host, status and latency: off, text or json"

  validation {
    condition     = contains(["off", "text", "json"], property.access_log)
    error_message = "One of off, text, json."
  }
}

property "trusted_fronts" {
  type        = list(string)
  default     = []
  description = "Networks of the proxies in front, such as \"192.0.2.0/24\", whose X-Forwarded-*, Forwarded and X-Request-Id are believed; from others they are replaced"

  validation {
    condition     = alltrue([for n in property.trusted_fronts : can(regex("^[0-9a-fA-F.:]+(/[0-9]+)?$", n))])
    error_message = "Addresses or networks such as \"192.0.2.0/24\"."
  }
}

property "addresses" {
  type        = list(string)
  default     = []
  description = "Addresses to listen on beside the instance's own; they must be the VM's"
  on_change   = "restart"
}

property "tls_port" {
  type        = number
  default     = 0
  description = "Port for HTTPS and HTTP/2, for domains that have a certificate; 0: none"
  on_change   = "restart"

  validation {
    condition     = property.tls_port >= 0 && property.tls_port <= 65535 && property.tls_port != property.port
    error_message = "A port other than the one for HTTP, or 0."
  }
}

property "public_tls_port" {
  type        = number
  default     = 443
  description = "Port to which https_only redirects: the one that clients reach tls_port by"
}

property "certificate" {
  type        = string
  default     = ""
  description = "Certificate of all domains that are not in sites, PEM: its own, then those that lead to a root; \"\": no HTTPS"
}

property "key" {
  type        = string
  default     = ""
  sensitive   = true
  description = "Private key of the certificate, PEM"
}

property "https_only" {
  type        = bool
  default     = false
  description = "Redirect requests over HTTP to HTTPS, of domains that are not in sites; a trusted front's X-Forwarded-Proto counts"
}

property "hsts_s" {
  type        = number
  default     = 0
  description = "Seconds for which browsers are told to use HTTPS only (Strict-Transport-Security), of domains that are not in sites; 0: they are not"
}

property "sites" {
  type = list(object({
    name             = string                # host name, or "*." and a domain
    certificate      = optional(string, "")  # PEM; "": no HTTPS
    key              = optional(string, "")  # PEM
    https_only       = optional(bool, false) # as the properties of these names
    hsts_s           = optional(number, 0)
    max_body_mb      = optional(number)
    answer_timeout_s = optional(number)
    redirect         = optional(string, "")       # URL that requests are redirected to, with their path
    allow            = optional(list(string), []) # networks of clients; others get a 403
    deny             = optional(list(string), []) # networks of clients that get a 403, before allow
    extra            = optional(string, "")       # of nginx's server block, as it is
  }))
  default     = []
  description = "Domains with settings of their own"

  validation {
    condition     = alltrue([for s in property.sites : can(regex("^([*][.])?[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$", s.name))])
    error_message = "Each name is a host name such as \"www.example.com\" or \"*.example.com\"."
  }

  validation {
    condition     = length(distinct([for s in property.sites : lower(s.name)])) == length(property.sites)
    error_message = "Each name once."
  }

  validation {
    condition     = alltrue([for s in property.sites : s.redirect == "" || can(regex("^https?://[^ \"'$;{}]+$", s.redirect))])
    error_message = "A redirect is a URL such as \"https://www.example.com\"."
  }

  validation {
    condition     = alltrue([for n in flatten([for s in property.sites : concat(s.allow, s.deny)]) : can(regex("^[0-9a-fA-F.:]+(/[0-9]+)?$", n))])
    error_message = "In allow and deny are addresses or networks such as \"192.0.2.0/24\"."
  }
}

# Debian's nginx; any of 1.22 or later will do.
package "nginx" {
  system = "nginx"
  apt    = ["nginx-light"]
}

package "lb_check" {
  program = "lb_check"
}

template "nginx.conf" {
  destination = "nginx.conf"
  on_change   = "reload"
}

template "proxy.conf" {
  destination = "proxy.conf"
  on_change   = "reload"
}

template "certificates.json" {
  destination = "certificates.json"
  mode        = "0600"
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

# Certificates must be those of their domains, and in time; they go where
# nginx.conf names them. nginx tells what else is wrong better than anyone: before
# it is used.
hook "check" {
  command = [
    "/bin/sh", "-c", "mkdir -p \"$1\" \"$2\" && \"$3\" \"$DEPLOY_STAGED/certificates.json\" \"$2/certificates\" && exec \"$0\" -t -q -e stderr -p \"$2\" -c \"$DEPLOY_STAGED/nginx.conf\"",
    package.nginx.path, path.run, path.data, "${package.lb_check.path}/lb_check",
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

listen "https" {
  port = property.tls_port > 0 ? property.tls_port : null
}
