hook "pre_start" {
  command = ["/bin/true"]
  timeout = 30
}
