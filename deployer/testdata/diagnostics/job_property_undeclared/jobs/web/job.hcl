property "port" {
  type    = number
  default = 8080
}

process "web" {
  command = ["/usr/bin/web", "-p", property.prot]
}
