process "web" {
  cmd = ["/usr/bin/web"]
}
