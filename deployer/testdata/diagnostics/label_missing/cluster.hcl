deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group {
  instances = 2
}
