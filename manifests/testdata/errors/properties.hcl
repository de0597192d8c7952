deployment "d" {}
infrastructure "local" {}
secret "nats" { type = "password" }

group "nats" {
  job "nats" { # error: Missing required property
    properties {
      prot = 4222 # error: Unknown property
      port = "x"  # error: Wrong type of property
    }
  }
}

group "nginx" {
  job "nginx" {
    properties {
      routers = group.nats.instances[*].adress   # error: Unsupported attribute
      domains = { a = 1 }                        # error: Wrong type of property
      port    = group.nats.instances[*].index    # error: Wrong type of property
    }
  }
}

group "router" {
  job "router" {
    links = { bus = "nats" }
    properties {
      port = 65536 # error: Invalid value for property "port" of job "router"
    }
  }
}

group "hello" {
  job "hello" {
    links = { bus = "nats" }
    properties {
      host   = null                             # error: Missing required property
      limits = { connections = "many" }         # error: Wrong type of property
      peers  = group.hello.instances[7].address # error: Invalid index
    }
  }
}

group "shared" {
  job "nats" {
    properties {
      password = "long enough"
      port     = instance.index # error: Published property differs by instance; error: Invalid port
    }
  }
}
