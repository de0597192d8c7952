deployment "d" {}
infrastructure "local" {}

locals {
  lb = group.lb.instances[*].address
}

group "lb" {
  job "nginx" {
    properties {
      routers = group.router.instances[*].address # error: Cycle in the start order
    }
  }
}

group "router" {
  depends_on = [group.hello]
}

group "hello" {
  job "hello" {
    properties {
      host  = "h"
      peers = local.lb
      limits = { name = "x" }
    }
  }
}

group "x" { depends_on = [group.y] } # error: Cycle in the start order
group "y" { depends_on = [group.x] }
