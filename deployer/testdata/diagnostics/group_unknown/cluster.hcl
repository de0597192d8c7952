deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "router" {}

group "lb" {
  job "nginx" {
    properties {
      domains = ["*.${deployment.domain}"]
      routers = group.routers.instances[*].address
    }
  }
}
