deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

network "front" {
  static = ["127.0.10.1"]
}

group "lb" {
  network = network.front
}

group "dns" {
  network = network.front
}
