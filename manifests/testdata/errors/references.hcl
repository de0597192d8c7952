deployment "d" {}
infrastructure "local" {}
secret "nats" { type = "password" }
vm "small" {}
disk "data" { size_gb = 1 }
network "lan" {}

group "nats" {
  vm         = vm.smal                    # error: Unknown vm
  disk       = disk.date                  # error: Unknown disk
  network    = network.wan                # error: Unknown network
  depends_on = [group.natz]               # error: Unknown group
  job "nats" {
    properties {
      password = secret.natz.value # error: Unknown secret
    }
  }
}

group "router" {
  vm         = "small"        # error: Not a reference
  disk       = vm.small       # error: Not a reference
  depends_on = [group.router] # error: Group depends on itself
  job "rooter" {}             # error: Unknown job
  job "nginx" {
    properties {
      routers = group.routers.instances[*].address # error: Unknown group
      domains = [group.router.instance[0].address] # error: Unknown attribute
      port    = groop.router                       # error: Unknown reference
    }
  }
  job "hello" {
    properties {
      host   = instance.adress # error: Unknown attribute of an instance
      peers  = group           # error: Incomplete reference
      number = property.port   # error: Reference not allowed here
    }
  }
}

group "lb" {
  depends_on = "group.nats"   # error: Not a list of groups
  job "dea" {
    properties {
      max_memory_mb = vm.small.memory # error: Unknown attribute
    }
  }
}

group "list" {
  depends_on = ["nats"] # error: Not a reference
}
