template "web.conf" {
  destination = "/etc/web.conf"
}
