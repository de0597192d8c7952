property "port" {
  type     = number
  required = true
  default  = 8080
}
