deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

release "mine" {
  path = "./jobs"
}

group "web" {
  instances = 3
  job "web" {}
}
