deployment "cf" {}

infrastructure "local" {
  cidr = "127.40.0.0/24"
}

release "mine" { path = "./jobs" }

variable "size" {
  type    = string
  default = "small"
}

variable "words" {
  type    = map(object({ text = string, times = optional(number, 2) }))
  default = { a = { text = "hi" } }
}

vm "small" {}
vm "large" { cpus = 8 }

locals {
  count = 2
  name  = "x-${local.count}"
  echos = [for i in group.echo.instances : "${i.id}=${i.address}"]
}
