deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

locals {
  name = uppercase("shop")
}
