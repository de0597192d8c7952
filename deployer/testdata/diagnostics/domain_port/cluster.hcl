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

secret "bus" { type = "password" }

group "nats" {
  job "nats" {
    properties { password = secret.bus.value }
  }
}

domain "shop.example" {
  group = group.nats
  port  = 80
}
