deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "router" {
  job "router" {}
}
