deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "lb" {
  job "nginx" {
    properties {
      port = 8080
    }
  }
}
