deployment "cf" {}

infrastructure "local" {}

group "lb" {
  instances = 2

  job "nginx" {
    properties {
      domans  = ["*.${deployment.domain}"]
      routers = group.router.instances[*].address
      port    = "http"
    }
  }
}

group "router" {
  job "dea" {}
}
