description = "DEA: runs instances of apps, each isolated from the others"

property "max_memory_mb" {
  type        = number
  default     = 4096
  description = "Memory and disk for all instances together; the sum of their limits never exceeds it"
  on_change   = "restart"

  validation {
    condition     = property.max_memory_mb >= 1
    error_message = "At least 1 MB."
  }
}

property "max_clients" {
  type        = number
  default     = 1024
  description = "Most instances that start or run at once"
  on_change   = "restart"

  validation {
    condition     = property.max_clients >= 1
    error_message = "At least 1."
  }
}

property "filer_port" {
  type        = number
  default     = 12345
  description = "Port of the file server, on the instance's address"
  on_change   = "restart"
}

property "sessions" {
  type = object({
    port     = optional(number, 12346)
    instance = optional(number, 3)
    app      = optional(number, 6)
    all      = optional(number, 50)
    idle     = optional(string, "15m")
    longest  = optional(string, "12h")
  })
  default     = {}
  description = "Commands that users run beside their apps (vmc ssh, vmc run): the TLS port for cloud controllers; the most commands at once of an instance, of an app on this DEA and of all apps (0: none); the longest idle time and duration of a command"
  on_change   = "restart"

  validation {
    condition     = property.sessions.port >= 1 && property.sessions.port <= 65535 && property.sessions.instance >= 0 && property.sessions.app >= 0 && property.sessions.all >= 0
    error_message = "port is within 1 and 65535, instance, app and all are 0 or more."
  }
}

property "ports" {
  type        = string
  default     = "20000-31999"
  description = "Port range for apps; it must not overlap the kernel's range for outgoing connections"
  on_change   = "restart"

  validation {
    condition     = can(regex("^[0-9]+-[0-9]+$", property.ports))
    error_message = "A range of ports, as \"20000-31999\"."
  }
}

property "isolation" {
  type        = string
  default     = "namespaces"
  levels      = ["processes", "namespaces", "full"]
  description = "Least isolation of apps: processes (only for users who trust each other), namespaces or full. Apps always get the best level that the machine offers; README.md describes the levels"
  on_change   = "restart"
}

property "network" {
  type        = string
  default     = "own"
  description = "own: each app has a network of its own, from which it reaches the internet, name servers, its services and the property networks; shared: apps use the machine's network and reach each other's ports"
  on_change   = "restart"

  validation {
    condition     = contains(["own", "shared"], property.network)
    error_message = "One of own, shared."
  }
}

property "networks" {
  type        = list(string)
  default     = []
  description = "Private networks that apps may reach, optionally with ports: \"10.0.5.0/24\", \"10.0.5.7 5432\", \"fd00:5::/64 8000-8080\""
  on_change   = "restart"

  validation {
    condition     = alltrue([for n in property.networks : can(regex("^[0-9a-fA-F.:]+(/[0-9]+)?( [0-9]+(-[0-9]+)?)?$", n))])
    error_message = "Networks such as \"10.0.5.0/24\" or \"10.0.5.7 5432\"."
  }
}

property "visible" {
  type        = list(string)
  default     = []
  description = "Folders of the VM that apps can read in addition to the system's, for runtimes installed elsewhere"
  on_change   = "restart"
}

property "processes" {
  type        = number
  default     = 512
  description = "Most processes of an instance, threads included"
  on_change   = "restart"
}

property "runtimes" {
  type        = list(string)
  default     = ["binary", "java", "node", "python", "ruby", "static"]
  description = "Runtimes to advertise; the DEA looks for a runtime when an app asks for it"
  on_change   = "restart"
}

property "expand_variables" {
  type        = bool
  default     = false
  description = "Expand $NAME, $${NAME} and quotes in users' environment variables as the original's shell did; false: values are passed unchanged"
  on_change   = "restart"
}

property "output" {
  type        = object({ file_mb = optional(number, 10), kept = optional(number, 2) })
  default     = {}
  description = "Logs kept of an instance, for stdout and for stderr: size of a file in MB (less where the disk quota is small), and number of older files"
  on_change   = "restart"

  validation {
    condition     = property.output.file_mb >= 1 && property.output.kept >= 0 && property.output.kept <= 20
    error_message = "file_mb is 1 at least, kept from 0 to 20."
  }
}

property "prod" {
  type        = bool
  default     = null
  description = "Run production apps only"
  on_change   = "restart"
}

property "cc_partition" {
  type        = string
  default     = "default"
  description = "Limits of apps whose start message names none"
  on_change   = "restart"
}

property "force_http_sharing" {
  type        = bool
  default     = false
  description = "Download droplets even if the shared folder has them"
  on_change   = "restart"
}

property "disk_percent" {
  type        = number
  default     = 95
  description = "Disk usage above which the DEA takes no new instance"
  on_change   = "restart"
}

property "cache_mb" {
  type        = number
  default     = 1024
  description = "Size of the cache of droplets"
  on_change   = "restart"
}

property "max_droplet_mb" {
  type        = number
  default     = 1024
  description = "Size limit of a droplet"
  on_change   = "restart"
}

property "when_others_are_full" {
  type        = string
  default     = "refuse"
  description = "An update of a DEA moves its apps to other DEAs. If they have no room: refuse, the update does not begin; warn, these apps are down during the update"

  validation {
    condition     = contains(["refuse", "warn"], property.when_others_are_full)
    error_message = "One of refuse, warn."
  }
}

property "intervals" {
  type        = map(number)
  default     = {}
  description = "Times in seconds, fractions allowed; README.md lists them with their defaults"
  on_change   = "restart"

  validation {
    condition = length(setsubtract(keys(property.intervals), [
      "heartbeat", "advertise", "monitor", "crashes_reaper", "probe", "crash_lifetime", "port_timeout", "state_file_timeout",
      "download_timeout", "connection_timeout", "stop_timeout", "evacuation_delay", "settle_time",
    ])) == 0
    error_message = "An interval that the DEA does not know; jobs/dea/README.md has them all."
  }

  validation {
    condition     = alltrue([for value in values(property.intervals) : value >= 0])
    error_message = "No interval is negative."
  }
}

# {uuid} is the id of this run of the DEA: nobody else gets what it is to start.
bus {
  publish = [
    "dea.start", "dea.heartbeat", "dea.advertise", "dea.shutdown", "droplet.exited",
    "router.register", "router.unregister", "router.greet",
    "dea.status", "droplet.status", # asks the other DEAs, before it leaves
  ]
  subscribe = [
    "dea.{uuid}.start", "dea.discover", "dea.stop", "dea.update", "dea.find.droplet", "dea.status", "dea.locate", "droplet.status",
    "healthmanager.start", "router.start",
    "dea.heartbeat", # of the others, when it leaves
  ]
}

package "dea" {
  program = "dea"
}

# The parent of each instance. It outlives the DEA, so an update of the DEA alone
# does not change it.
package "warden" {
  program = "warden"
}

template "dea.yml" {
  destination = "dea.yml"
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

# Whether the machine keeps apps apart as is required, and whether the other DEAs
# have room for this one's apps, is said before anything is touched. Where there is
# no DEA yet, there are no apps.
hook "check" {
  command = [
    "/bin/sh", "-ec", "\"$0\" check-isolation -c \"$DEPLOY_STAGED/dea.yml\"; test ! -e \"$1/dea.yml\" || exec \"$0\" check-evacuation -c \"$DEPLOY_STAGED/dea.yml\"",
    "${package.dea.path}/dea", path.config,
  ]
  timeout = "300s" # makes namespaces, which takes an emulated machine long
}

# Nothing is left to do when the DEA has drained. This hook's time is the drain's:
# apps start elsewhere (evacuation_delay), finish their requests
# (connection_timeout) and end (stop_timeout).
hook "drain" {
  command = ["/bin/true"]
  timeout = "180s"
}

process "dea" {
  command = ["${package.dea.path}/dea", "-c", "${path.config}/dea.yml"]
  env     = { WARDEN = package.warden.path }

  # Apps run on while the DEA itself is started again.
  kill_mode  = "process"
  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "15s"
}

listen "files" {
  port = property.filer_port
}

listen "sessions" {
  port = property.sessions.port
}
