template "text.tftpl" {}
process "dea" {
  command = ["dea", "x"]
}
