deployment "d" {}
infrastructure "local" {}

group "lb" {
  job "balancer" {}
}

acme {
  agree_terms = false # error: Terms are not agreed to
  dns_hook    = []    # error: Empty command
}
