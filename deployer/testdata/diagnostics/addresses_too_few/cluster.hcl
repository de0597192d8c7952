deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

network "front" {
  static = ["127.0.10.1", "127.0.10.2"]
}

group "lb" {
  instances = 3
  network   = network.front
}
