deployment "shop" {
  domain = "http://shop.localhost/"
}

infrastructure "local" {}
