description = "Cloud controller: the REST API for users, and the commands to stagers and DEAs that carry requests out"

property "external_uri" {
  type        = string
  required    = true
  description = "Host name of the API, \"api.<domain>\"; apps get host names in the same domain"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", property.external_uri))
    error_message = "A host name with a domain, such as \"api.cf.localhost\"."
  }
}

property "name" {
  type        = string
  default     = "vcap"
  description = "Name of this cloud (`vmc info`)"
}

property "description" {
  type        = string
  default     = "Cloud Foundry of the first generation"
  description = "One line about this cloud (`vmc info`)"
}

property "support" {
  type        = string
  default     = ""
  description = "Where users get help: a URL or an e-mail address (`vmc info`); \"\": not shown"
}

property "port" {
  type        = number
  default     = 9022
  description = "Port for requests, on the instance's address"
  on_change   = "restart"
}

property "trusted_fronts" {
  type        = list(string)
  default     = []
  description = "Networks of routers that are not this platform's and whose X-Real-Ip is believed; logins are slowed down per client address. This platform's routers prove themselves by a key and need no entry"

  validation {
    condition     = alltrue([for n in property.trusted_fronts : can(regex("^[0-9a-fA-F.:]+/[0-9]+$", n))])
    error_message = "Networks such as \"10.0.0.0/8\"."
  }
}

property "internal_port" {
  type        = number
  default     = 9023
  description = "Plain-text port for components only: packages, droplets, the bulk API, copies among controllers. Keep load balancers and users away from it"
  on_change   = "restart"

  validation {
    condition     = property.internal_port != property.port
    error_message = "It must differ from port."
  }
}

property "internal_tls_port" {
  type        = number
  default     = 9024
  description = "The same as internal_port over TLS, for components with a certificate of the deployment's CA: stagers, DEAs, health managers and other controllers"
  on_change   = "restart"

  validation {
    condition     = property.internal_tls_port != property.port && property.internal_tls_port != property.internal_port
    error_message = "It must differ from port and internal_port."
  }
}

property "internal_plaintext" {
  type        = bool
  default     = false
  description = "Serve internal_port for components of earlier versions. True by default in deployments whose first apply was by version 0.9 or earlier; set it to false once all components are newer"

  earlier_default = true
  on_change       = "restart"
}

property "database" {
  type        = string
  default     = "sqlite"
  description = "sqlite: a file, for a single controller; postgres: the link `postgres`, for any number of controllers"
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
  description = "Key that signs tokens and from which the components' passwords are derived. A new key ends all logins"

  validation {
    condition     = length(property.secret) >= 8
    error_message = "At least 8 characters."
  }
}

property "shared_directory" {
  type        = string
  default     = ""
  description = "Folder for packages and droplets that all controllers share (NFS); DEAs that share it too need no download. \"\": each controller has a folder of its own and copies what it lacks from the others"
  on_change   = "restart"
}

property "admins" {
  type        = list(string)
  default     = []
  description = "E-mail addresses of the administrators"
}

property "admin_password" {
  type        = string
  default     = ""
  sensitive   = true
  description = "Password with which missing accounts of administrators are created. Nobody can register as an administrator"

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
  description = "Shortest password that an account may have, characters"

  validation {
    condition     = property.min_password_length >= 1
    error_message = "At least 1."
  }
}

property "allow_registration" {
  type        = bool
  default     = false
  description = "Let anyone who reaches the API register. Otherwise only administrators create accounts (`vmc register EMAIL`)"
}

property "accounts" {
  type        = string
  default     = "controller"
  description = "Where the passwords of accounts are: \"controller\", or \"uaa\", the link of that name. If another is set they move, as hashes: nobody needs a new password, everybody logs in once more. Leave the job uaa in place until they are back"
  on_change   = "restart"

  validation {
    condition     = contains(["controller", "uaa"], property.accounts)
    error_message = "Either \"controller\" or \"uaa\"."
  }
}

property "app_uris" {
  type = object({
    allow_external  = optional(bool, false)
    reserved_list   = optional(list(string), ["www", "api"])
    reserved_length = optional(number, 0)
  })
  default     = {}
  description = "Which host names apps may have outside the domain, and which first labels are reserved"
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
  description = "Host names that the load balancers serve beside those below the API's domain: the manifest's domain blocks. Users may map apps to the names whose target is apps"
}

property "reserved_hosts" {
  type        = list(string)
  default     = []
  description = "Reserved host names, beside admin, api, login, uaa, www and the names that jobs register: first labels in the apps' domain, or whole names"
}

property "default_account_capacity" {
  type = object({
    memory   = optional(number, 2048)
    app_uris = optional(number, 4)
    services = optional(number, 16)
    apps     = optional(number, 20)
    # of all started apps together
    instances = optional(number, 200)
    # by starts, updates and more instances, not after crashes
    starts_per_minute = optional(number, 300)
  })
  default     = {}
  description = "Quota of an account; memory in MB; app_uris is the limit of one app"

  validation {
    condition     = property.default_account_capacity.starts_per_minute >= 1
    error_message = "starts_per_minute is at least 1."
  }
}

property "app_limits" {
  type = object({
    instances  = optional(number, 100)
    memory_min = optional(number, 16)
    disk       = optional(number, 2048)
    fds        = optional(number, 4096)
  })
  default     = {}
  description = "Limits of one app: most instances, and for each instance the least memory and the most disk in MB and the most open files. Existing apps beyond a limit are held to it at their next change"
}

property "builtin_services" {
  type        = map(string)
  default     = {}
  sensitive   = true
  description = "Services that gateways may offer, each with the token of its gateway"
}

property "max_droplet_size_mb" {
  type        = number
  default     = 512
  description = "Size limit of an unpacked app, and of a droplet, MiB"
  on_change   = "restart"
}

property "resource_pool_mb" {
  type        = number
  default     = 2048
  description = "Size of the cache of uploaded files, which spares users a second upload, MiB"
  on_change   = "restart"
}

property "max_staging_runtime_s" {
  type        = number
  default     = 120
  description = "Longest staging, seconds"
  on_change   = "restart"
}

property "new_initial_placement" {
  type        = bool
  default     = false
  description = "Place instances by what DEAs advertise, without asking them; false: among the DEAs that offer to run the instance. The rule of placement is the same"
  on_change   = "restart"
}

property "update" {
  type = object({
    strategy         = optional(string, "rolling")
    max_in_flight    = optional(number, 3)
    min_healthy_time = optional(string, "6s")
    watch_time       = optional(string, "1m")
    rebalance_every  = optional(string, "0s")
  })
  default     = {}
  description = "How an app is updated. rolling: a new instance starts beside each old one, must stay healthy for min_healthy_time before it gets requests, and only then the old one stops; max_in_flight instances at once. If within watch_time after the update its only instance crashes, or two of several, the previous version returns (\"0s\": never). now: all instances stop, then start, as in the original; users can ask for it with `vmc --now`. With rebalance_every above \"0s\", instances of an app that crowd on some DEAs, since others were away or full, are spread anew by a rolling update of the app: one app at a time, so long after the last one and after the last DEA that came or went"

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
  description = "Time limits for answers: offers of DEAs, the DEAs' word on an app's instances, the health manager's on one app and on many, a service gateway's"
  on_change   = "restart"
}

property "cc_partition" {
  type        = string
  default     = "default"
  description = "Marks the health manager's messages for these controllers, where several platforms share a bus"
  on_change   = "restart"
}

property "drain_timeout_s" {
  type        = number
  default     = 35
  description = "Longest wait of a stopping controller for requests in progress, seconds; a staging that takes longer must be started again by its user"
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

consumes "uaa" {
  optional = true
}

bus {
  publish = [
    "dea.*.start", "dea.discover", "dea.stop", "dea.update", "dea.find.droplet", "dea.locate", "droplet.updated",
    "healthmanager.health", "healthmanager.status", "staging",
    "router.register", "router.unregister", "router.greet", "router.hosts", "router.requests",
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

# With SQLite the users, apps and services are on this VM alone.
hook "census" {
  command = ["${package.cloud_controller.path}/cloud_controller", "census", "-c", "${path.config}/cloud_controller.yml"]
  timeout = "15s"
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
