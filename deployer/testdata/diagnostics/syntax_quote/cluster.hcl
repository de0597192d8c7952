deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  azs = ["z1, "z2"]
}
