deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

disk "data" {
  size = 10
}
