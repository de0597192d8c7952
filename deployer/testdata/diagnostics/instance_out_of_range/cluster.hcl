deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "router" {
  instances = 2
}

group "lb" {
  job "nginx" {
    properties {
      domains = ["*.${deployment.domain}"]
      routers = [group.router.instances[2].address]
    }
  }
}
