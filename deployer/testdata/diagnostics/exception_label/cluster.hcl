deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  instances = 3

  instance "web/2" {}
}
