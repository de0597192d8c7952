deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

vm "small" {
  memory_mb = 512
}

group "web" {
  vm = "small"
}
