description = "Cloud controller: the REST API that apps are pushed through, and the commands to DEAs and stagers that follow"

property "external_uri" {
  type        = string
  required    = true
  description = "The API's host name, \"api.<domain>\"; apps get names in the same domain"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", property.external_uri))
    error_message = "A host name with a domain, such as \"api.cf.localhost\"."
  }
}

property "name" {
  type        = string
  default     = "vcap"
  description = "What this cloud calls itself (`vmc info`)"
}

property "description" {
  type        = string
  default     = "Cloud Foundry of the first generation"
  description = "A line about this cloud (`vmc info`)"
}

property "support" {
  type        = string
  default     = ""
  description = "Where users get help: a URL or an e-mail address (`vmc info`); \"\": nothing is said"
}

property "port" {
  type        = number
  default     = 9022
  description = "Port for requests, on the instance's own address"
  on_change   = "restart"
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

property "internal_port" {
  type        = number
  default     = 9023
  description = "Port for other components only: packages, droplets, the bulk API, copies among controllers. Let neither load balancers nor users reach it"
  on_change   = "restart"

  validation {
    condition     = property.internal_port != property.port
    error_message = "It must differ from port."
  }
}

property "internal_tls_port" {
  type        = number
  default     = 9024
  description = "The same over TLS, for components with a certificate of the deployment's CA: stagers, DEAs, health managers and the other controllers use it"
  on_change   = "restart"

  validation {
    condition     = property.internal_tls_port != property.port && property.internal_tls_port != property.internal_port
    error_message = "It must differ from port and internal_port."
  }
}

property "internal_plaintext" {
  type        = bool
  default     = false
  description = "Serve internal_port, in plain text, for components of earlier versions; true where a version up to 0.9 made the deployment, until it is set to false"

  earlier_default = true
  on_change       = "restart"
}

property "database" {
  type        = string
  default     = "sqlite"
  description = "sqlite, a file of the only controller; or postgres, the link of that name, for any number of them"
  on_change   = "restart"

  validation {
    condition     = contains(["sqlite", "postgres"], property.database)
    error_message = "Either \"sqlite\" or \"postgres\"."
  }

  validation {
    condition     = property.database != "sqlite" || length(group.instances) <= 1
    error_message = "SQLite serves a single controller. Several need database = \"postgres\"."
  }
}

property "secret" {
  type        = string
  required    = true
  sensitive   = true
  description = "Signs tokens; the passwords among the components follow from it. A new one ends all logins"

  validation {
    condition     = length(property.secret) >= 8
    error_message = "At least 8 characters."
  }
}

property "shared_directory" {
  type        = string
  default     = ""
  description = "A folder that all controllers share, and better the DEAs too (NFS): packages and droplets are there. \"\": each controller has its own, and copies"
  on_change   = "restart"
}

property "admins" {
  type        = list(string)
  default     = []
  description = "E-mail addresses of the admins"
}

property "admin_password" {
  type        = string
  default     = ""
  sensitive   = true
  description = "The password with which the admins' accounts are made where they are missing. Nobody can register as an admin"

  validation {
    condition     = property.admin_password != "" || length(property.admins) == 0
    error_message = "admins need an admin_password: nobody can register as an admin. A secret's value will do; each admin may change it later (vmc passwd)."
  }

  validation {
    condition     = property.admin_password == "" || length(property.admin_password) >= property.min_password_length
    error_message = "At least min_password_length characters."
  }
}

property "min_password_length" {
  type        = number
  default     = 8
  description = "Shortest password that an account may get"

  validation {
    condition     = property.min_password_length >= 1
    error_message = "At least 1."
  }
}

property "allow_registration" {
  type        = bool
  default     = false
  description = "Anyone who reaches the API may register. Else admins make the accounts (vmc register EMAIL, logged in as an admin)"
}

property "app_uris" {
  type = object({
    allow_external  = optional(bool, false)
    reserved_list   = optional(list(string), ["www", "api"])
    reserved_length = optional(number, 0)
  })
  default     = {}
  description = "Host names that apps may have: outside of the domain, and which first labels nobody gets"
}

property "domains" {
  from = "domains"
  type = list(object({
    name   = string                     # host name, or "*." and a domain
    target = optional(string, "apps")   # "apps": apps may be mapped to it
    users  = optional(list(string), []) # only of these accounts; admins' may be in any case
    paths  = optional(list(object({ path = string, target = optional(string, "apps") })), [])
  }))
  default     = []
  description = "Host names that the load balancers serve, beside those below the API's domain: the manifest's domain blocks. Those that go to apps may be mapped to apps, the others are nobody's"
}

property "reserved_hosts" {
  type        = list(string)
  default     = []
  description = "Host names that apps may not have, beside admin, api, login, uaa and www and those that jobs register: first labels in the apps' domain, or whole names"
}

property "default_account_capacity" {
  type = object({
    memory   = optional(number, 2048)
    app_uris = optional(number, 4)
    services = optional(number, 16)
    apps     = optional(number, 20)
    # of all started apps together
    instances = optional(number, 200)
  })
  default     = {}
  description = "What an account may have; memory in MB, app_uris of one app"
}

property "app_limits" {
  type = object({
    instances  = optional(number, 100)
    memory_min = optional(number, 16)
    disk       = optional(number, 2048)
    fds        = optional(number, 4096)
  })
  default     = {}
  description = "What one app may have: instances, and of each the least memory, the most disk (both MB) and the most open files. Apps that have more keep it until they are changed"
}

property "builtin_services" {
  type        = map(string)
  default     = {}
  sensitive   = true
  description = "Services whose gateways may offer them, each with its gateway's token"
}

property "max_droplet_size_mb" {
  type        = number
  default     = 512
  description = "Largest app, unpacked, and largest droplet, MiB"
  on_change   = "restart"
}

property "resource_pool_mb" {
  type        = number
  default     = 2048
  description = "Disk for files that need not be uploaded again, MiB"
  on_change   = "restart"
}

property "max_staging_runtime_s" {
  type        = number
  default     = 120
  description = "How long a stager may take, seconds"
  on_change   = "restart"
}

property "new_initial_placement" {
  type        = bool
  default     = false
  description = "Choose among the DEAs by what they advertise, without asking them; else among those that offer to run an instance. The rule is the same"
  on_change   = "restart"
}

property "update" {
  type = object({
    strategy         = optional(string, "rolling")
    max_in_flight    = optional(number, 3)
    min_healthy_time = optional(string, "6s")
    watch_time       = optional(string, "1m")
  })
  default     = {}
  description = "How an app gets new files or settings. rolling: a new instance starts beside each old one, must stay healthy for min_healthy_time before it gets requests, and only then the old one stops; max_in_flight instances at once. A version whose only instance, or two of several, crash within watch_time after that is taken back (\"0s\": it is not). now: all stop, then start, as in the original; users may ask for it (vmc --now)"

  validation {
    condition     = contains(["rolling", "now"], property.update.strategy) && property.update.max_in_flight >= 1
    error_message = "strategy is \"rolling\" or \"now\", and max_in_flight at least 1."
  }
}

property "timeouts" {
  type = object({
    discover = optional(string, "2s")
    find     = optional(string, "2s")
    status   = optional(string, "2s")
    health   = optional(string, "1s")
    gateway  = optional(string, "10s")
  })
  default     = {}
  description = "How long answers are waited for: of a DEA that offers, of the DEAs for an app's instances, of the health manager for one app and for many, of a service gateway"
  on_change   = "restart"
}

property "cc_partition" {
  type        = string
  default     = "default"
  description = "Tells the health manager's messages for these controllers from others'"
  on_change   = "restart"
}

property "drain_timeout_s" {
  type        = number
  default     = 35
  description = "How long a controller that leaves waits for requests in progress, seconds; a staging that takes longer is to be started again"
  on_change   = "restart"

  validation {
    condition     = property.drain_timeout_s > 0 && property.drain_timeout_s <= 40
    error_message = "Above 0 and at most 40: the agent does not wait for a drain much longer."
  }
}

provides "cloud_controller" {
  properties = ["external_uri", "port", "internal_port", "internal_tls_port", "cc_partition"]
}

consumes "postgres" {
  optional = true
}

bus {
  publish = [
    "dea.*.start", "dea.discover", "dea.stop", "dea.update", "dea.find.droplet", "dea.locate", "droplet.updated",
    "healthmanager.health", "healthmanager.status", "staging",
    "router.register", "router.unregister", "router.greet", "router.hosts",
  ]
  subscribe = [
    "cloudcontrollers.hm.requests", "cloudcontrollers.hm.requests.*",
    "cloudcontroller.bulk.credentials", "cloudcontroller.bulk.credentials.*",
    "dea.advertise", "dea.shutdown", "dea.heartbeat", "droplet.exited", "router.register", "router.start",
  ]
}

package "cloud_controller" {
  program = "cloud_controller"
}

template "cloud_controller.yml" {
  destination = "cloud_controller.yml"
  mode        = "0600" # holds passwords
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

process "cloud_controller" {
  command = ["${package.cloud_controller.path}/cloud_controller", "-c", "${path.config}/cloud_controller.yml"]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "10s"

  # Beside the control socket: the port itself answers.
  check "http" {
    target = "http://${instance.address}:${property.port}/info"
  }
}

listen "http" {
  port = property.port
}

listen "internal" {
  port = property.internal_plaintext ? property.internal_port : null
}

listen "internal_tls" {
  port = property.internal_tls_port
}
