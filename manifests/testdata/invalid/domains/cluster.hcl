deployment "shop" {}
infrastructure "local" {}

group "lb" {
  job "balancer" {}
}

domain "www.shop.example" {
  group = group.shpo
}

group "shop" {
  job "hello" {
    properties { host = "shop" }
  }
}

# What people write is compared as it is looked up.
domain "WWW.Shop.example" {
  redirect = "https://shop.example"
}

domain "shop.example" {
  redirect = "https://www.shop.example"

  path "/api" {
    redirect = "https://shop.example/api"
  }
  path "/api/" {
    apps = true
  }
}
