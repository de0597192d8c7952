deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

groups "web" {
  instances = 2
}
