deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

secret "bus" { type = "password" }

group "nats" {
  job "nats" {
    properties {
      password = secret.buss.value
    }
  }
}
