description = "The deployment's message bus: NATS with JetStream, TLS and one account each for agents and components"

property "port" {
  type        = number
  default     = 4222
  description = "Port for clients, on the instance's address"
}

property "user" {
  type        = string
  default     = "nats"
  description = "User that jobs without a bus block share"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]+$", property.user))
    error_message = "The user stands in URIs: letters, digits, '_', '.' and '-' only."
  }
}

property "password" {
  type        = string
  required    = true
  sensitive   = true
  description = "Password of the shared user; the passwords of all other users are derived from it. A reload applies a new one, and connections stay"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.~-]+$", property.password))
    error_message = "The password stands in URIs: letters, digits, '_', '.', '~' and '-' only, at least one."
  }
}

property "shared_user" {
  type        = bool
  description = "Accept the user that jobs without a bus block and jobs of earlier versions share. Not set: accepted if there is such a job, and in deployments whose first apply was by version 0.9 or earlier, until it is set to false"

  earlier_default = true
  on_change       = "restart"
}

property "allow_plaintext" {
  type        = bool
  default     = false
  description = "Let components connect without TLS, for clients that cannot use it; agents always use TLS"
}

property "max_payload" {
  type        = number
  default     = 8388608
  description = "Largest message, bytes"

  validation {
    condition     = property.max_payload >= 1048576 && property.max_payload <= 67108864
    error_message = "Between 1 MiB (packages travel in such pieces) and 64 MiB."
  }
}

property "max_store_mb" {
  type        = number
  default     = 4096
  description = "Size of the cache of packages, MiB; the bus servers share it"

  validation {
    condition     = property.max_store_mb >= 1
    error_message = "At least 1 MiB."
  }
}

property "monitor_port" {
  type        = number
  default     = 0
  description = "Port of nats-server's HTTP monitoring pages, which need no password; 0: closed"
}

property "cluster_port" {
  type        = number
  default     = 6222
  description = "Port for the other servers of the bus, and for the server that replaces a lone one"
}

provides "bus" {
  properties = ["port", "user", "password"]
}

package "nats" {
  program = "nats"
}

certificate "server" {
  names = ["nats.${deployment.name}.internal"]
}

template "nats.yml" {
  destination = "nats.yml"
  on_change   = "restart"
}

# The servers of the bus. It is read at the start only: those that come later
# make themselves known, so that a change disturbs nobody.
template "peers" {
  destination = "peers"
  on_change   = "none"
}

# A lone server joins the one whose place it takes, as long as that stands here: the
# server looks itself.
template "joins" {
  destination = "joins"
  on_change   = "none"
}

template "password" {
  destination = "password"
  mode        = "0600"
  on_change   = "reload"
}

# What each job may say and hear: the bus blocks of the jobs that use this bus.
template "users.json" {
  destination = "users.json"
  on_change   = "reload"
}

template "ca.pem" {
  destination = "ca.pem"
  on_change   = "reload"
}

template "server.pem" {
  destination = "server.pem"
  on_change   = "reload"
}

template "server.key" {
  destination = "server.key"
  mode        = "0600"
  on_change   = "reload"
}

process "nats" {
  command = ["${package.nats.path}/nats", "-c", "${path.config}/nats.yml"]

  check "tcp" {
    target = "${instance.address}:${property.port}"
  }

  # For a server that hangs the kernel still takes connections.
  check "exec" {
    command  = ["${package.nats.path}/nats", "-c", "${path.config}/nats.yml", "-answers", "5s"]
    interval = "5s"
    timeout  = "6s"
  }

  reload {
    signal = "HUP"
    verify = ["${package.nats.path}/nats", "-c", "${path.config}/nats.yml", "-verify", "5s"]
  }
}

# Streams that somebody keeps on the bus; the deployer's cache of packages is none.
hook "census" {
  command = ["${package.nats.path}/nats", "-c", "${path.config}/nats.yml", "-census"]
  timeout = "10s"
}

listen "bus" {
  port = property.port
}

listen "cluster" {
  port = property.cluster_port
}
