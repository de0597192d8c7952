deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

secret "bus" { type = "passwd" }
