property "port" {
  type    = number
  default = "8080/tcp"
}
