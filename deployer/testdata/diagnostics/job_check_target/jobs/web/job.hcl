process "web" {
  command = ["/usr/bin/web"]

  check "http" {
    url = "http://${instance.address}/"
  }
}
