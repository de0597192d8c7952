property "port" {
  type    = number
  default = 8070
}

listen "http" {
  port = property.port
}

listen "dns" {
  network = "udp"
  port    = property.port
}
