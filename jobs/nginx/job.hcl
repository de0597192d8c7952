description = "Load balancer: nginx in front of all routers"

property "domains" {
  type        = list(string)
  description = "Host names whose requests go to the apps, \"*.\" for all below a domain, in addition to those of sites; not set: all names below the deployment's domain. Other names get a 404"

  validation {
    condition     = property.domains == null || alltrue([for d in coalesce(property.domains, []) : can(regex("^([*][.])?[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*$", d))])
    error_message = "Host names such as \"www.example.com\" or \"*.example.com\"."
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
  description = "Port for requests, on the instance's address"
  on_change   = "restart" # the health check asks there
}

property "max_body_mb" {
  type        = number
  default     = 1024
  description = "Largest request body, MiB; 0: no limit"
}

property "answer_timeout_s" {
  type        = number
  default     = 180
  description = "Longest pause in a router's answer, seconds; more than the routers' answer_timeout_s, so that the router reports which app was late"

  validation {
    condition     = property.answer_timeout_s > 0
    error_message = "More than 0 seconds."
  }
}

property "client_requests" {
  type        = number
  default     = 256
  description = "Most requests of one client address at once, WebSockets included; more get a 429"

  validation {
    condition     = property.client_requests >= 1
    error_message = "1 or more."
  }
}

property "host_requests" {
  type        = number
  default     = 2048
  description = "Most requests to one host name at once, WebSockets included; more get a 429"

  validation {
    condition     = property.host_requests >= 1
    error_message = "1 or more."
  }
}

property "workers" {
  type        = number
  default     = 2
  description = "Number of worker processes"
}

property "access_log" {
  type        = string
  default     = "off"
  description = "Format of the access log in the process's log, with time, id, client, host, app and instance, status and latency: off, text or json"

  validation {
    condition     = contains(["off", "text", "json"], property.access_log)
    error_message = "One of off, text, json."
  }
}

property "front_key" {
  type        = string
  default     = ""
  sensitive   = true
  description = "The routers' front_key, by which routers recognize their load balancers"

  validation {
    condition     = property.front_key == "" || can(regex("^[A-Za-z0-9_-]{16,200}$", property.front_key))
    error_message = "16 to 200 letters, digits, _ or -. A secret's value will do."
  }
}

property "trusted_fronts" {
  type        = list(string)
  default     = []
  description = "Networks of proxies in front, such as \"192.0.2.0/24\", whose X-Forwarded-*, Forwarded and X-Request-Id are believed; those of other clients are replaced"

  validation {
    condition     = alltrue([for n in property.trusted_fronts : can(regex("^[0-9a-fA-F.:]+(/[0-9]+)?$", n))])
    error_message = "Addresses or networks such as \"192.0.2.0/24\"."
  }
}

property "proxy_protocol_port" {
  type        = number
  default     = 0
  description = "Further port for requests, where fronts pass connections on with the PROXY protocol (1 or 2), which says whose they are; 0: closed"

  validation {
    condition     = property.proxy_protocol_port == 0 || property.proxy_protocol_port > 0 && property.proxy_protocol_port <= 65535 && !contains([property.port, property.tls_port], property.proxy_protocol_port)
    error_message = "A port that is neither port nor tls_port, or 0."
  }
}

property "proxy_protocol_tls_port" {
  type        = number
  default     = 0
  description = "The same for HTTPS and HTTP/2; open when a domain has a certificate; 0: closed"

  validation {
    condition     = property.proxy_protocol_tls_port == 0 || property.proxy_protocol_tls_port > 0 && property.proxy_protocol_tls_port <= 65535 && !contains([property.port, property.tls_port, property.proxy_protocol_port], property.proxy_protocol_tls_port)
    error_message = "A port that is none of port, tls_port and proxy_protocol_port, or 0."
  }
}

property "addresses" {
  type        = list(string)
  default     = []
  description = "Further addresses of the VM to listen on"
}

property "tls_port" {
  type        = number
  default     = 8443
  description = "Port for HTTPS and HTTP/2, open when a domain has a certificate; 0: closed"

  validation {
    condition     = property.tls_port >= 0 && property.tls_port <= 65535 && property.tls_port != property.port
    error_message = "A port other than the one for HTTP, or 0."
  }
}

property "public_tls_port" {
  type        = number
  default     = 443
  description = "Port that https_only redirects to: the port by which clients reach tls_port"
}

property "certificate" {
  type        = string
  default     = ""
  description = "Certificate of all domains that are not in sites, PEM, followed by its chain; \"\": no HTTPS"
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
  description = "Redirect HTTP to HTTPS for domains that are not in sites; a trusted front's X-Forwarded-Proto counts"
}

property "hsts_s" {
  type        = number
  default     = 0
  description = "Seconds for which browsers must use HTTPS only (Strict-Transport-Security), for domains that are not in sites; 0: not sent"
}

property "balancing" {
  type        = string
  default     = "round_robin"
  description = "Which router, or instance of a domain's group, gets the next request: round_robin; least_conn, the one with the fewest requests; random, the better of two random ones; client, the same one for each client address"

  validation {
    condition     = contains(["round_robin", "least_conn", "random", "client"], property.balancing)
    error_message = "One of round_robin, least_conn, random, client."
  }
}

property "keepalive" {
  type        = number
  default     = 64
  description = "Most idle connections that a worker keeps to the routers, and to each group of a domain"

  validation {
    condition     = property.keepalive >= 1
    error_message = "1 or more."
  }
}

property "gzip" {
  type        = bool
  default     = false
  description = "Compress text for clients that accept it. Do not compress pages that contain both a secret and a client's input (BREACH)"
}

property "brotli" {
  type        = bool
  default     = false
  description = "Compress text by brotli for clients that accept it, rather than by gzip. nginx needs its module for it, Debian's libnginx-mod-http-brotli-filter, on the VM; if it is not there, nothing is changed"
}

property "modules" {
  type        = string
  default     = "/usr/lib/nginx/modules"
  description = "Folder of nginx's modules on the VM, for brotli"

  validation {
    condition     = can(regex("^/[A-Za-z0-9._/-]+$", property.modules))
    error_message = "An absolute path."
  }
}

property "maintenance" {
  type        = string
  default     = ""
  description = "Maintenance page of all domains, status 503, HTML if it begins with \"<\"; \"\": domains are served"

  validation {
    condition     = length(property.maintenance) <= 32000
    error_message = "At most 32,000 characters."
  }
}

property "extra" {
  type        = string
  default     = ""
  description = "Lines for nginx's http block, passed on unchanged; checked before anything changes"
}

property "sites" {
  from = "domains"
  type = list(object({
    name             = string                # host name, or "*." and a domain
    certificate      = optional(string, "")  # PEM; "": no HTTPS
    key              = optional(string, "")  # PEM
    https_only       = optional(bool, false) # as the properties of these names
    hsts_s           = optional(number, 0)
    max_body_mb      = optional(number)
    answer_timeout_s = optional(number)
    target           = optional(string, "apps")   # apps, group, redirect or answer
    servers          = optional(list(string), []) # group: host:port each
    redirect         = optional(string, "")       # redirect: URL, to which the path is added
    status           = optional(number, 200)      # answer
    body             = optional(string, "")
    type             = optional(string, "text/plain; charset=utf-8")
    paths = optional(list(object({ # the longest first
      path     = string
      target   = optional(string, "apps")
      servers  = optional(list(string), [])
      redirect = optional(string, "")
      status   = optional(number, 200)
      body     = optional(string, "")
      type     = optional(string, "text/plain; charset=utf-8")
    })), [])
    allow  = optional(list(string), []) # networks of clients; others get a 403
    deny   = optional(list(string), []) # networks of clients that get a 403, before allow
    rate_s = optional(number, 0)        # requests a second of a client's address; 0: no limit
    burst  = optional(number, 0)
    acme   = optional(string, "")   # thumbprint for http-01; "": tokens are not answered
    fronts = optional(list(string)) # instead of trusted_fronts
    extra  = optional(string, "")   # of nginx's server block, as it is
  }))
  default     = []
  description = "Domains with settings of their own: the manifest's domain blocks"

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
    condition     = alltrue([for n in flatten([for s in property.sites : concat(s.allow, s.deny, coalesce(s.fronts, []))]) : can(regex("^[0-9a-fA-F.:]+(/[0-9]+)?$", n))])
    error_message = "In allow, deny and fronts are addresses or networks such as \"192.0.2.0/24\"."
  }

  validation {
    condition     = alltrue([for s in property.sites : alltrue([for t in concat([{ target = s.target, body = s.body }], [for p in s.paths : { target = p.target, body = p.body }]) : contains(["apps", "group", "redirect", "answer"], t.target) && length(t.body) <= 32000])])
    error_message = "A target is one of apps, group, redirect, answer, and a body has at most 32,000 characters."
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
  mode        = "0600" # holds front_key
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

template "proof.json" {
  destination = "proof.json"
  on_change   = "reload"
}

# Before anything changes: certificates are those of their domains, and in time;
# they go where nginx.conf names them. Addresses and ports are free. nginx tells
# what else is wrong better than anyone.
hook "check" {
  command = ["${package.lb_check.path}/lb_check", "check", package.nginx.path, path.config, path.run, path.data]
  timeout = "20s"
}

# What starts must serve every domain, else what ran before comes back.
hook "post_start" {
  command = ["${package.lb_check.path}/lb_check", "proof", path.config]
  timeout = "30s"
}

process "nginx" {
  command     = [package.nginx.path, "-e", "stderr", "-p", path.data, "-c", "${path.config}/nginx.conf"]
  stop_signal = "QUIT" # finishes requests in progress
  stop_grace  = "30s"

  check "http" {
    target = "http://${instance.address}:${property.port}/.deploy/health"
  }

  # The signal says nothing of its outcome, so the reload is believed when the
  # new configuration answers, on every address and for every domain, with the
  # domain's certificate. Else what ran before comes back.
  reload {
    signal  = "HUP"
    verify  = ["${package.lb_check.path}/lb_check", "proof", path.config]
    timeout = "30s"
  }
}

listen "http" {
  port = property.port
}

listen "https" {
  port = property.tls_port > 0 && nonsensitive(property.certificate != "" || anytrue([for s in property.sites : s.certificate != ""])) ? property.tls_port : null
}

listen "proxy_protocol" {
  port = property.proxy_protocol_port > 0 ? property.proxy_protocol_port : null
}

listen "proxy_protocol_tls" {
  port = property.proxy_protocol_tls_port > 0 && nonsensitive(property.certificate != "" || anytrue([for s in property.sites : s.certificate != ""])) ? property.proxy_protocol_tls_port : null
}
