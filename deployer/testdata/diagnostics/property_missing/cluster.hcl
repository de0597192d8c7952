deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "lb" {
  job "nginx" {
    properties {
      routers = ["10.0.0.1"]
    }
  }
}
