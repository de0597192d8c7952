deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "router" {}

group "lb" {
  job "nginx" {
    properties {
      routers = group.router.instances[*].address
    }
  }
}

domain "www.shop.example" {
  tls = { certificate_file = "www.pem", key_file = "www.key" }
}
