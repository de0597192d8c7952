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
  redirect = "https://shop.example"
}

domain "WWW.shop.example." {
  tls = "internal"
}
