deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "Web" {}
