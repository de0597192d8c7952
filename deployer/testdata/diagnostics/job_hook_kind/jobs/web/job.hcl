hook "prestart" {
  command = ["/bin/true"]
}
