template "web.conf" {}

process "web" {
  command = ["/usr/bin/web"]
}
