deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

update {
  watch_time       = "10s"
  min_healthy_time = "30s"
}
