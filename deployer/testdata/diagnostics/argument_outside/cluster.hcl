deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

instances = 3

group "web" {}
