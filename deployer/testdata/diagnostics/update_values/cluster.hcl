deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

update {
  canaries         = "one"
  max_in_flight    = "120%"
  watch_time       = "1 minute"
  min_healthy_time = 30
  on_failure       = "roll_back"
}
