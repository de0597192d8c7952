process "web" {
  command  = ["/usr/bin/web"]
  restarts = 5
}
