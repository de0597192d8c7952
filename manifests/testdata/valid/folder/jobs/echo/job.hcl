property "text" {
  type = string
}
property "all" {
  type = list(string)
}
template "text.tftpl" {}
process "echo" {
  command = ["echo", property.text]
}
