process "web" {
  command = ["/usr/bin/web", "-d", var.domain]
}
