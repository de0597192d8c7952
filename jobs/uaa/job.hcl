description = "User component: accounts, and tokens for them by OAuth 2 and OpenID Connect"

property "url" {
  type        = string
  required    = true
  description = "Where browsers and clients find it, as \"https://uaa.<domain>\", with a port if it is not the usual one, without a path. It is the issuer of all tokens, and its host is registered with the routers"
  on_change   = "restart"

  validation {
    condition     = can(regex("^https?://[a-z0-9-]+(\\.[a-z0-9-]+)*(:[0-9]+)?$", property.url))
    error_message = "A URL without a path, such as \"https://uaa.cf.example.com\"."
  }
}

property "port" {
  type        = number
  default     = 9107
  description = "Port for routers, on the instance's own address"
  on_change   = "restart"
}

property "internal_port" {
  type        = number
  default     = 9108
  description = "Port for the cloud controllers, over TLS with certificates of the deployment's CA"
  on_change   = "restart"

  validation {
    condition     = property.internal_port != property.port
    error_message = "It must differ from port."
  }
}

property "secret" {
  type        = string
  required    = true
  sensitive   = true
  description = "Encrypts the signing keys in the database. A new one makes new keys and ends all logins"
  on_change   = "restart"

  validation {
    condition     = length(property.secret) >= 16
    error_message = "At least 16 characters."
  }
}

property "controller_secret" {
  type        = string
  required    = true
  sensitive   = true
  description = "What the cloud controllers prove themselves with; they learn it by themselves"

  validation {
    condition     = length(property.controller_secret) >= 16
    error_message = "At least 16 characters."
  }
}

property "database" {
  type        = string
  default     = "sqlite"
  description = "sqlite, a file of the only instance; or postgres, the link of that name, for any number of them"
  on_change   = "restart"

  validation {
    condition     = contains(["sqlite", "postgres"], property.database)
    error_message = "Either \"sqlite\" or \"postgres\"."
  }

  validation {
    condition     = property.database != "sqlite" || length(group.instances) <= 1
    error_message = "SQLite serves a single instance. Several need database = \"postgres\"."
  }
}

property "clients" {
  type = map(object({
    secret        = optional(string, "") # "": a public client, which must use PKCE
    redirect_uris = optional(list(string), [])
    grants        = list(string)
    scopes        = optional(list(string), ["openid", "email"])
  }))
  default     = {}
  sensitive   = true
  description = "Programs that may ask for tokens, by their ids. grants are of authorization_code, refresh_token, client_credentials and password; the scope cloud_controller lets a client act for users at the cloud controllers. The client vmc is there always"

  validation {
    condition     = alltrue([for id, c in property.clients : can(regex("^[a-z][a-z0-9_-]{0,63}$", id)) && id != "vmc" && (c.secret == "" || length(c.secret) >= 16) && length(c.grants) > 0])
    error_message = "Ids are lower-case letters, digits, - and _, and not vmc; secrets have at least 16 characters; each client has grants."
  }
}

property "access_token_life" {
  type        = string
  default     = "10m"
  description = "How long an access token is valid, at most 24h. A new password ends it at the cloud controllers at once, elsewhere nothing does"
}

property "refresh_token_life" {
  type        = string
  default     = "168h"
  description = "How long a login lasts that is not used"
}

property "rotate_keys" {
  type        = string
  default     = "720h"
  description = "Age of a signing key at which the next one signs. The old one stays valid as long as tokens that it signed"
}

property "key_epoch" {
  type        = number
  default     = 0
  description = "A higher number has a new signing key sign at once; nobody is logged out"
}

property "trusted_fronts" {
  type        = list(string)
  default     = []
  description = "Networks of foreign routers, whose X-Real-Ip is believed (it decides whose logins are slowed down). Routers of this platform are known by a key and need no entry"

  validation {
    condition     = alltrue([for n in property.trusted_fronts : can(regex("^[0-9a-fA-F.:]+/[0-9]+$", n))])
    error_message = "Networks such as \"10.0.0.0/8\"."
  }
}

provides "uaa" {
  properties = ["url", "internal_port", "controller_secret"]
}

consumes "postgres" {
  optional = true
}

bus {
  publish   = ["router.register", "router.unregister", "router.greet"]
  subscribe = ["router.start"]
}

package "uaa" {
  program = "uaa"
}

template "uaa.yml" {
  destination = "uaa.yml"
  mode        = "0600" # holds passwords
  on_change   = "reload"
}

# What this component shows the cloud controllers, read for each connection.
template "internal.pem" {
  destination = "internal.pem"
  on_change   = "none"
}

template "internal.key" {
  destination = "internal.key"
  mode        = "0600"
  on_change   = "none"
}

process "uaa" {
  command = ["${package.uaa.path}/uaa", "-c", "${path.config}/uaa.yml"]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "10s"

  check "http" {
    target = "http://${instance.address}:${property.port}/info"
  }
}

# With SQLite the accounts are on this VM alone.
hook "census" {
  command = ["${package.uaa.path}/uaa", "census", "-c", "${path.config}/uaa.yml"]
  timeout = "15s"
}

listen "http" {
  port = property.port
}

listen "internal" {
  port = property.internal_port
}
