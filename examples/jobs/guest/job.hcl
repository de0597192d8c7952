description = "A daemon that knows nothing of the platform and yet has a URL: its agent registers it with the routers"

property "name" {
  type        = string
  default     = "guest"
  description = "First part of the host name; \"\": no URL"
}

property "port" {
  type        = number
  default     = 8083
  description = "Port for requests, on the instance's address"
}

package "perl" {
  system = "perl"
  apt    = ["perl-base"]
}

template "guest.pl" {}

process "guest" {
  command = [package.perl.path, "${path.config}/guest.pl"]
  env     = { PORT = property.port }

  check "http" {
    target = "http://${instance.address}:${property.port}/"
  }

  # All that it takes: requests for the host come here while the check passes.
  route {
    host = property.name == "" ? null : "${property.name}.${deployment.domain}"
    port = property.port
  }
}

listen "http" {
  port = property.port
}
