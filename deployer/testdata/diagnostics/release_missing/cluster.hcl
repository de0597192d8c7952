deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

release "mine" {
  path = "./job"
}

group "web" {
  job "web" {}
}
