deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

secret "bus" { type = "password" }

group "nats" {
  job "nats" {
    properties {
      password = secret.bus.value
    }
  }
}


release "mine" {
  path = "./jobs"
}

group "web" {
  instances = 3
  job "web" {}
}
