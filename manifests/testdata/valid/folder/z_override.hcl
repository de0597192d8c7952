infrastructure "hosts" {
  user = "root"
}

locals {
  count = 3
}

update {
  max_in_flight = "50%"
}

group "echo" {
  job "echo" {
    properties { text = upper(var.words["a"].text) }
  }
}
