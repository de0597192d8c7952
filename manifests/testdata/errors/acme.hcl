deployment "d" {}
infrastructure "local" {}

group "lb" {
  job "balancer" {}
}

domain "acme.example" { tls = "acme" } # error: Missing acme block
