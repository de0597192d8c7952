process "web" {
  command = ["/usr/bin/web"]

  reload {
    signal  = "SIGHUP"
    command = ["/usr/bin/web", "-s", "reload"]
  }
}
