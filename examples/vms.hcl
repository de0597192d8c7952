# A Cloud Foundry on three virtual machines, which libvirt makes of our stemcell. As
# cluster-small.hcl, with several jobs on a VM; only the infrastructure is another.
#
#   make setup-vm stemcell RECIPE=runtimes             what it needs, once; prints the image's path
#   templates/libvirt/provider.sh
#   bin/deploy apply --var image=PATH examples/vms.hcl
#   bin/deploy status examples/vms.hcl                 the address of edge/0
#   curl -H 'Host: api.vms.localhost' http://ADDRESS:8080/info
#   bin/deploy destroy --delete-disks examples/vms.hcl

deployment "vms" {
  domain = "vms.localhost"
}

infrastructure "libvirt" {
  image = var.image
  cidr  = "10.77.0.0/24"
  mode  = "none" # no way out of the VMs' network: all that they need is in the image
}

variable "image" {
  type        = string
  description = "The stemcell: what make stemcell RECIPE=runtimes printed"
}

secret "nats" { type = "password" }
secret "cloud_controller" { type = "password" }

# By this the routers know their load balancers, and believe what these say of clients.
secret "front" { type = "password" }

vm "small" {
  memory_mb = 384
}

vm "large" {
  memory_mb = 640
}

# What is on a disk outlives its VM.
disk "data" { size_gb = 2 }

network "control" { static = ["10.77.0.20"] }

# An emulated VM is slow to say that it is well.
update {
  min_healthy_time = "3s"
  watch_time       = "0s-600s"
}

# What the outside sees, and the bus.
group "edge" {
  vm = vm.small

  job "nats" {
    properties { password = secret.nats.value }
  }

  job "nginx" {
    properties {
      routers   = ["10.77.0.20"] # static: the routers start after the bus, which is here
      front_key = secret.front.value
    }
  }
}

# What steers: routes, the API, staging.
group "control" {
  vm      = vm.large
  network = network.control
  disk    = disk.data

  job "router" {
    properties { front_key = secret.front.value }
  }

  job "cloud_controller" {
    properties {
      external_uri          = "api.${deployment.domain}"
      secret                = secret.cloud_controller.value
      allow_registration    = true # leave this out where others reach the API
      max_staging_runtime_s = 170  # emulated, a staging takes long; nginx waits for 180
    }
  }

  job "health_manager" {}

  job "stager" {
    properties {
      max_memory_mb       = 256
      max_staging_seconds = 160
    }
  }
}

# What apps run on.
group "dea" {
  vm = vm.large

  job "dea" {
    properties {
      max_memory_mb        = 256
      when_others_are_full = "warn"                 # with no other DEA its apps cannot move
      intervals            = { port_timeout = 300 } # seconds: emulated, Node.js begins slowly
    }
  }
}
