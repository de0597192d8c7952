deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "db" {}

group "web" {
  depends_on = ["db"]
}
