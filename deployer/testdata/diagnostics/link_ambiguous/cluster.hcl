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


group "nats2" {
  job "nats" {
    properties {
      password = secret.bus.value
    }
  }
}

group "router" {
  job "router" {}
}
