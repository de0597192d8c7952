property "port" {
  type = "number"
}
