deployment "cf" {}

infrastructure "local" {}

variable "password" {
  sensitive = true
  default   = "abc"
}

group "blue" {
  job "nats" {
    properties { password = var.password }
  }
}

group "green" {
  job "nats" {
    properties { password = "${parseint(var.password, 10)}-and-more" }
  }
}

group "router" {
  job "router" {}
}
