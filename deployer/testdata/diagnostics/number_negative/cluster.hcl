deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  instances = -1
}
