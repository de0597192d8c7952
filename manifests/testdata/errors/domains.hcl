deployment "d" {}
infrastructure "local" {}
secret "nats" { type = "password" }

group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}

group "lb" {
  job "balancer" {
    properties {
      sites   = []                           # error: Domains declared twice
      domains = ["one.example", "b.example"] # error: Duplicate domain
    }
  }
}

domain "www.example.com" {
  port = 80 # error: Port without a group
}

domain "WWW.example.com." {} # error: Duplicate domain

domain "bücher.example" {}
domain "xn--bcher-kva.example" {} # error: Duplicate domain

domain "*" {}            # error: Invalid domain
domain "a.*.example" {}  # error: Invalid domain
domain "192.0.2.1" {}    # error: Invalid domain
domain "a_b.example" {}  # error: Invalid domain
domain "http://a.test" {} # error: Invalid domain

acme {                # error: Missing required argument
  directory = "http://x" # error: Invalid directory
  root_file = "none.pem" # error: Cannot read file
}

domain "*.acme.example" { tls = "acme" } # error: Wildcard without dns_hook

domain "one.example" {
  group    = group.nobody # error: Unknown group
  tls      = "acne"       # error: Unknown tls
  max_body_mb = -1        # error: Number out of range
  hsts     = "1500ms"     # error: Not whole seconds; error: No HTTPS to lead to
  allow    = ["10.0.0.0/33"] # error: Invalid network
  deny     = ["everybody"]   # error: Invalid network
  users    = ["a@b.c"]       # error: Unsupported argument
}

domain "two.example" {
  group    = group.nats
  port     = 4242                    # the line of the group has the error
  redirect = "https://else.example"  # error: Two targets
  tls      = secret.nats             # error: Not a certificate
}

domain "none.example" {
  allow = [] # error: Nobody is allowed
}

domain "three.example" {
  group = group.nats # error: Unknown port
  port  = 4242
  tls   = { certificate_file = "none.pem", kee_file = "x" } # error: Cannot read file; error: Unsupported argument; error: Missing file
  path "/a" { redirect = "ftp://x" } # error: Invalid redirect
  path "/a/" {}                      # error: Duplicate path
  path "api" {}                      # error: Invalid path
  path "/a/../b" {}                  # error: Invalid path
  path "/b" {
    answer {
      type   = "x\"y"                    # error: Invalid type
      status = 301                       # error: Invalid status
      body   = join("", ["a", "\u0000"]) # error: Invalid body
    }
  }
  rate_limit {} # error: Missing required argument
}

domain "four.example" {
  redirect = "https://five.example" # error: Redirect to itself
}

domain "five.example" {
  redirect = "https://four.example/x" # error: Redirect to itself
}

domain "six.example" {
  redirect = "http://six.example/app" # it leads to a path that answers
  path "/app" {
    answer {}
  }
}

domain "seven.example" { # error: Duplicate domain
  name = "six.example" # the first one is above
}
