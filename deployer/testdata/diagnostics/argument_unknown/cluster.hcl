deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  instance = 2
}
