property "port" {
  default = "http"
}

listen "http" {
  port = property.port
}
