description = "Stager: turns apps into droplets, which DEAs run"

property "queues" {
  type        = list(string)
  default     = ["staging"]
  description = "Subjects of requests; one of the stagers with the subject gets each request"
  on_change   = "restart"

  validation {
    condition     = length(property.queues) > 0
    error_message = "At least one."
  }
}

property "max_staging_seconds" {
  type        = number
  default     = 110
  description = "Longest staging including its wait, seconds; less than the controller's limit (120)"
  on_change   = "restart"

  validation {
    condition     = property.max_staging_seconds > 0
    error_message = "More than 0."
  }
}

property "max_active_tasks" {
  type        = number
  default     = 4
  description = "Most apps staged at once, half of them of one account; others wait"
  on_change   = "restart"

  validation {
    condition     = property.max_active_tasks >= 1
    error_message = "At least 1."
  }
}

property "max_app_mb" {
  type        = number
  default     = 512
  description = "Size limit of a packed app, MiB"
  on_change   = "restart"
}

property "max_droplet_mb" {
  type        = number
  default     = 1024
  description = "Size limit of an unpacked app, and of an unpacked droplet, MiB"
  on_change   = "restart"
}

property "fetch_dependencies" {
  type        = bool
  default     = false
  description = "Let npm, bundler and pip download dependencies that an app declares and does not contain"
  on_change   = "restart"
}

property "allow_hosts" {
  type = list(string)
  default = [
    "registry.npmjs.org", "rubygems.org", "*.rubygems.org", "pypi.org", "files.pythonhosted.org", "repo.maven.apache.org", "repo1.maven.org",
    "github.com", "codeload.github.com",
  ]
  description = "Hosts from which dependencies may be downloaded, by HTTPS, or HTTP on port 80: \"example.com\", \"*.example.com\" for those below it, \"example.com:8080\" for another port"
  on_change   = "restart"

  validation {
    condition     = alltrue([for h in property.allow_hosts : can(regex("^([*][.])?[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)*(:[0-9]+)?$", h))])
    error_message = "Hosts such as \"example.com\", \"*.example.com\" or \"example.com:8080\"."
  }
}

property "networks" {
  type        = list(string)
  default     = []
  description = "Private networks in which these hosts may be, optionally with ports: \"10.0.5.0/24\", \"10.0.5.7 8081\""
  on_change   = "restart"

  validation {
    condition     = alltrue([for n in property.networks : can(regex("^[0-9a-fA-F.:]+(/[0-9]+)?( [0-9]+(-[0-9]+)?)?$", n))])
    error_message = "Networks such as \"10.0.5.0/24\" or \"10.0.5.7 8081\"."
  }
}

property "network" {
  type        = string
  default     = "own"
  description = "own: each staging has a network of its own, from which it reaches allow_hosts only; shared: it uses the machine's network without limits"
  on_change   = "restart"

  validation {
    condition     = contains(["own", "shared"], property.network)
    error_message = "One of own, shared."
  }
}

property "isolation" {
  type        = string
  default     = "namespaces"
  levels      = ["processes", "namespaces", "full"]
  description = "Least isolation of staging: processes (only for users who trust each other), namespaces or full. Staging always gets the best level that the machine offers; README.md describes the levels"
  on_change   = "restart"
}

property "max_memory_mb" {
  type        = number
  default     = 1024
  description = "Memory limit of one staging"
  on_change   = "restart"

  validation {
    condition     = property.max_memory_mb >= 1
    error_message = "At least 1 MB."
  }
}

property "processes" {
  type        = number
  default     = 512
  description = "Most processes of one staging, threads included"
  on_change   = "restart"
}

property "tomcat" {
  type        = string
  default     = ""
  description = "Home of the Tomcat for Java web apps; \"\": Debian's, if the VM has it (tomcat10-common)"
  on_change   = "restart"
}

property "plugins" {
  type        = map(string)
  default     = {}
  description = "Your own plugins: framework = absolute path of a program on the VM; README.md has the contract"
  on_change   = "restart"
}

bus {
  subscribe      = property.queues
  answer_seconds = property.max_staging_seconds + 60
}

package "stager" {
  program = "stager"
}

# The parent of each plugin's process.
package "warden" {
  program = "warden"
}

# Goes into the droplets of static apps.
package "static_server" {
  program = "static_server"
}

template "stager.yml" {
  destination = "stager.yml"
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

# Whether the machine keeps plugins apart as is required is said before anything is
# touched.
hook "check" {
  command = ["/bin/sh", "-c", "exec \"$0\" check-isolation -c \"$DEPLOY_STAGED/stager.yml\"", "${package.stager.path}/stager"]
  timeout = "300s" # makes namespaces, which takes an emulated machine long
}

process "stager" {
  command = ["${package.stager.path}/stager", "-c", "${path.config}/stager.yml"]

  # The stager reads the program that goes into droplets at its start.
  restart_on = [package.static_server.path, package.warden.path]

  kill_mode  = "group" # a plugin's warden has a group of its own, and ends with the stager
  component  = true    # log_level, the bus with its CA, the control socket
  stop_grace = "10s"
}

# The stager drains over its control socket; this is how long it may take to
# finish the stagings in progress.
hook "drain" {
  command = ["/bin/true"]
  timeout = "120s"
}
