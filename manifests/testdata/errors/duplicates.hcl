deployment "d" {}
deployment "e" {} # error: Duplicate deployment block
infrastructure "local" {}
infrastructure "hosts" {} # error: Duplicate infrastructure block

variable "a" { default = 1 }
variable "a" { default = 2 } # error: Duplicate variable
locals { x = 1 }
locals { x = 2 } # error: Duplicate local
secret "s" { type = "password" }
secret "s" { type = "rsa" } # error: Duplicate secret
vm "v" {}
vm "v" {} # error: Duplicate vm
disk "d" { size_gb = 1 }
disk "d" { size_gb = 2 } # error: Duplicate disk
network "n" {}
network "n" {} # error: Duplicate network
update {}
update {} # error: Duplicate update block

group "g" {
  job "dea" {
    properties {}
    properties {} # error: Duplicate properties block
  }
  job "dea" {} # error: Duplicate job
  instance "0" {}
  instance "0" {} # error: Duplicate instance
}
group "g" {} # error: Duplicate group
