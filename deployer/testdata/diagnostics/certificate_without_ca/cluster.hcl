deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

secret "web" {
  type  = "certificate"
  names = ["www.shop.localhost"]
}
