property "port" {
  type    = number
  default = 8080
}

property "domains" {
  type    = list(string)
  default = ["*"]
}

property "routers" {
  type     = list(string)
  required = true
}

package "nginx" {
  system = "nginx"
  apt    = ["nginx-light"]
}

template "nginx.conf.tmpl" {
  on_change = "reload"
  process   = "nginx"
}

process "nginx" {
  command = [package.nginx.path, "-c", "${path.config}/nginx.conf"]

  check "http" {
    target   = "http://${instance.address}:${property.port}/healthz"
    host     = property.domains[0]
    interval = "2s"
    timeout  = "500ms"
    failures = 5
  }
  reload {
    signal = "HUP"
  }
}

listen "http" {
  port = property.port
}
