deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  job "ngnix" {}
}
