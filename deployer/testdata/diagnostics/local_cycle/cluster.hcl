deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

locals {
  url  = "http://${local.host}/"
  host = trimprefix(local.url, "http://")
}
