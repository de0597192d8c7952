deployment "cf" { domain = var.domain }
infrastructure "local" {}
variable "domain" { default = "cf.example" }
secret "nats" { type = "password" }
secret "ca" { type = "ca" }
secret "web" {
  type  = "certificate"
  ca    = secret.ca
  names = ["api.shop.example"]
}

group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}

group "lb" {
  job "balancer" {}
}

group "shop" {
  instances = 2
  job "hello" {
    properties {
      host   = "shop"
      peers  = []
      number = instance.index
      limits = { name = "x" }
    }
  }
}

domain "apps" {
  name  = "*.${deployment.domain}"
  tls   = "internal"
  hsts  = "8760h"
  users = ["ops@shop.example"]
}

domain "www.shop.example" {
  tls            = { certificate_file = "shop.pem", key_file = "./shop.key", root_file = "shop.pem" }
  max_body_mb    = 50
  answer_timeout = "30s"
  allow          = ["192.0.2.0/24", "2001:db8::/32"]
  deny           = ["192.0.2.7"]
  trusted_fronts = []
  extra          = "add_header X-Extra yes always;"

  rate_limit {
    requests_per_second = 50
  }
  path "/api/" {
    group = group.nats
  }
  path "/api/v2" {
    apps = true
  }
  path "/down" {
    answer {
      status = 503
      body   = "<h1>Back soon</h1>"
      type   = "text/html"
    }
  }
}

domain "shop.example" {
  redirect = "https://www.shop.example"
}

domain "API.Shop.Example." {
  tls   = secret.web
  group = group.shop
  port  = 8080
}
