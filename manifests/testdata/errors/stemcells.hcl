deployment "d" {}
infrastructure "local" {}

stemcell "both" { # error: Stemcell without a source
  path    = "a.qcow2"
  url     = "https://example.com/a.qcow2"
  version = "1"
  sha256  = "0000000000000000000000000000000000000000000000000000000000000000"
}

stemcell "neither" { # error: Stemcell without a source
  version = "1"
  sha256  = "0000000000000000000000000000000000000000000000000000000000000000"
}

stemcell "unpinned" { # error: Missing required argument
  path    = "a.qcow2"
  version = "1"
}

stemcell "short" {
  path    = "a.qcow2"
  version = "1"
  sha256  = "00" # error: Not a sha256
}

stemcell "ftp" {
  url     = "ftp://example.com/a.qcow2" # error: Not an address of a file
  version = "1"
  sha256  = "0000000000000000000000000000000000000000000000000000000000000000"
}

stemcell "good" {
  path    = "a.qcow2"
  version = "1"
  sha256  = "0000000000000000000000000000000000000000000000000000000000000000"
}

vm "twice" {
  stemcell = stemcell.good
  image    = "ubuntu" # error: Two images
}

vm "quoted" {
  stemcell = "good" # error: Not a reference
}

vm "unknown" {
  stemcell = stemcell.debain # error: Unknown stemcell
}

locals {
  image = stemcell.good # error: Reference not allowed here
}

vm "without_a_kind" {
  user_data = "runcmd: [reboot]" # error: Invalid user data
}
