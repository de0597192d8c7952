deployment "cf" {
  domain = "cf.localhost"
}

infrastructure "local" {
  publish = { "127.0.0.1:8080" = "lb:8080" }
}

secret "nats"  { type = "password" }

vm "small" {
  cpus      = 1
  memory_mb = 512
  options   = {}
}

vm "large" {
  cpus      = 4
  memory_mb = 4096
}

disk "data" { size_gb = 10 }

update {
  canaries         = 1
  max_in_flight    = "34%"
  watch_time       = "0s-60s"
  min_healthy_time = "3s"
  on_failure       = "rollback"
}

group "nats" {
  instances = 1
  vm        = vm.small
  job "nats" {
    properties { password = secret.nats.value }
  }
}

group "lb" {
  instances = 1
  vm        = vm.small
  job "nginx" {
    properties {
      domains = ["*.${deployment.domain}"]
      routers = group.router.instances[*].address
    }
  }
}

group "router" {
  instances = 3
  vm        = vm.small
  job "router" {}
}

group "dea" {
  instances = 3
  vm        = vm.small
  azs       = ["z1", "z2"]
  disk      = disk.data
  job "dea" {
    properties { max_memory_mb = 2048 }
  }
  update { max_in_flight = 1 }
  instance "2" {
    vm = vm.large
  }
}

moved {
  from = "cell"
  to   = "dea"
}
