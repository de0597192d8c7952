secret "root" { type = "ca" }

secret "web" {
  type  = "certificate"
  ca    = secret.root
  names = ["web.${deployment.domain}"]
}

network "lan" {
  static  = ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
  options = { id = "net-1" }
}

group "echo" {
  instances       = local.count
  vm              = var.size == "small" ? vm.small : vm.large
  network         = network.lan
  prevent_destroy = true

  job "echo" {
    properties {
      text = var.words["a"].text
      all  = local.echos
    }
  }

  instance "1" { vm = vm.large }
}

group "dea" {
  instances = 0
  job "dea" {}
}
