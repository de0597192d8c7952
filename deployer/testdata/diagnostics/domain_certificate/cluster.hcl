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

domain "shop.example" {
  tls = { certificate_file = "www.pem", key_file = "www.key" }
}
