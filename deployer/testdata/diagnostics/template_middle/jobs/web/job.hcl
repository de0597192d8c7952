property "port" {
  type    = number
  default = 8080
}

property "backends" {
  type    = list(string)
  default = ["a", "b"]
}

property "title" {
  type = string
}

template "web.conf" {}

process "web" {
  command = ["/usr/bin/web", "-c", "${path.config}/web.conf"]
}
