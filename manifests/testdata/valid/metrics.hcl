deployment "cf" {
  metrics { port = 9100 }
  logging { syslog = "tcp://10.0.0.5:601" }
  firewall { allow = ["10.0.0.5", "192.168.0.0/16", "fd00::/8"] }
}

infrastructure "local" {}
