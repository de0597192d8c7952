deployment "cf" {
  metrics { port = 9100 }
}

infrastructure "local" {}
