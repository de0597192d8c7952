process "web" {
  command = "/usr/bin/web -c /etc/web.conf"
}
