template "web.conf" {
  mode = "rw-r-----"
}
