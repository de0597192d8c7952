deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  instances = 1
}

group "web" {
  instances = 2
}
