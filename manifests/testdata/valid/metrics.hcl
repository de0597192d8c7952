deployment "cf" {
  metrics { port = 9100 }
  logging { syslog = "tcp://10.0.0.5:601" }
}

infrastructure "local" {}
