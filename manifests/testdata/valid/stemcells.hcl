# Images that VMs boot, pinned.
deployment "d" {}

infrastructure "local" {}

variable "old" {
  type    = bool
  default = false
}

stemcell "debian" {
  path    = "../images/base-1.1.qcow2"
  version = "1.1"
  sha256  = "00000000000000000000000000000000000000000000000000000000000000AA"
}

stemcell "before" {
  url     = "https://images.example/base-1.0.qcow2"
  version = "1.0"
  sha256  = "00000000000000000000000000000000000000000000000000000000000000bb"
}

vm "small" {
  memory_mb = 256
  stemcell  = var.old ? stemcell.before : stemcell.debian
  user_data = <<-END
    #cloud-config
    runcmd: [[touch, /var/lib/was-here]]
  END
}

vm "script" {
  user_data = "#!/bin/sh\ntouch /var/lib/was-here\n"
}

group "web" {
  vm = vm.small
}
