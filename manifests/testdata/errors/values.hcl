deployment "d" {
  domain = "Not A Domain" # error: Invalid domain
  metrics {
    port = 70000 # error: Number out of range
  }
  logging {
    syslog = "logs" # error: Invalid syslog server
  }
  firewall {
    allow = ["10.0.0.1/8"] # error: Invalid range
  }
}
infrastructure "local" {
  password = secret.db.value # error: Reference not allowed here
  id       = deployment.id   # error: Reference not allowed here
  address  = local.address   # error: Reference not allowed here
  token    = var.token       # error: Sensitive value not allowed here
  typo     = lokal.x         # error: Unknown reference
}

variable "token" {
  default   = "t"
  sensitive = true
}

variable "region" {} # error: Variable without a value

variable "size" {
  type    = number
  default = "big" # error: Wrong type
}

variable "other" {
  default = var.size # error: Reference not allowed here
}

variable "kind" {
  default = 1
  type = nubmer # error: Invalid type specification
}

variable "port" {
  default = 70000 # error: Invalid value for variable "port"
  validation {
    condition     = var.port < 65536
    error_message = "Too big."
  }
}

variable "rule" {
  default = 1
  validation { # error: Missing required argument
    condition = true
  }
  validation {
    condition     = var.port # error: Unknown variable
    error_message = "No."
  }
}

locals {
  address = group.a.instances[0].address
  one     = local.two # error: Locals depend on each other
  two     = local.one
  me      = instance.id  # error: Reference not allowed here
  none    = var.nothing  # error: Unknown variable
  bad     = upper([1])   # error: Invalid function argument
  far     = group.a.instances[9].address # error: Invalid index
}

secret "db" { type = "pasword" } # error: Unknown type
secret "len" {
  type   = "password"
  length = 2            # error: Number out of range
  names  = ["a"]        # error: Unsupported argument
}
secret "ca" { type = "ca" }
secret "cert" { type = "certificate" } # error: Missing required argument
secret "cert2" {
  type = "certificate"
  ca   = secret.len # error: Not a certificate authority
}
secret "cert3" {
  type = "certificate"
  ca   = secret.cs # error: Unknown secret
}
secret "cert4" {
  type = "certificate"
  ca   = "ca" # error: Not a reference
}

disk "none" {} # error: Missing required argument
disk "zero" { size_gb = 0 } # error: Number out of range

network "n" {
  static = ["10.0.0.1", "10.0.0.1"] # error: Duplicate address
}
network "m" {
  static = ["10.0.0"] # error: Not an address
}
network "few" { static = ["10.0.0.7"] }

group "a" {
  instances = 2
  network   = network.few # error: Too few addresses
}
group "b" { network = network.few } # error: Address in use

release "mine" { path = "./nowhere" } # error: Cannot read release
release "none" {} # error: Release without a source
release "signed_by_nobody" {
  archive     = "./r.tar.gz"
  sha256      = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  public_keys = [] # error: Not a public key
}
release "signed_by_what" {
  archive     = "./r.tar.gz"
  sha256      = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  public_keys = ["ssh-ed25519 AAAA"] # error: Not a public key
}
release "signed_folder" {
  path        = "./jobs"
  public_keys = ["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"] # error: Unsupported argument
}
release "unpinned" { archive = "./r.tar.gz" } # error: Missing sha256
release "mispinned" {
  archive = "./r.tar.gz"
  sha256  = "0123" # error: Not a sha256
}
release "closed" {
  archive = "./r.tar.gz" # error: Cannot read release
  sha256  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
}
release "folder" {
  path    = "."
  version = "1" # error: Unsupported argument
}
