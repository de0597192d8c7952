template "web.conf" {
  on_change = "sighup"
}
