deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

group "web" {
  depends_on = [group.db]
}

group "db" {
  depends_on = [group.cache]
}

group "cache" {
  depends_on = [group.web]
}
