process "web" {
  command = ["/usr/bin/web"]

  check "https" {
    target = "https://${instance.address}/"
  }
}
