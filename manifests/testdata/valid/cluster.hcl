deployment "cf" { domain = "cf.localhost" }

infrastructure "local" {
  cidr    = "127.40.0.0/24"
  publish = { "127.0.0.1:8080" = "lb:8080" }
}

secret "nats" { type = "password" }

group "nats" {
  instances = 1
  job "nats" {
    properties { password = secret.nats.value }
  }
}

group "lb" {
  instances = 1
  job "nginx" {
    properties { routers = group.router.instances[*].address }
  }
}

group "router" {
  instances = 3
  job "router" {}
}

group "hello" {
  instances  = 3
  depends_on = [group.lb]
  job "hello" {
    properties {
      host   = "hello.${deployment.domain}"
      peers  = group.hello.instances[*].address
      number = instance.index
      limits = { name = "x" }
    }
  }
}
