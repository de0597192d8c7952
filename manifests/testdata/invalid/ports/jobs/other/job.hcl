property "base" {
  type    = number
  default = 9000
}

property "fixed" {
  type    = number
  default = 9100
}

listen "each" {
  port = property.base + instance.index
}

listen "all" {
  port = property.fixed
}
