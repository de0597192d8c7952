deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "lb" {
  job "nginx" {
    properties {
      domains = "*.shop.localhost"
      routers = ["10.0.0.1"]
      port    = "http"
    }
  }
}
