process "web" {
  command = ["/usr/bin/web", "-c", "${path.config}/web.conf]
}
