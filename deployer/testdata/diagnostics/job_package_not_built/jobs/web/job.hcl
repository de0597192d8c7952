package "web" {
  program = "web"
}

process "web" {
  command = ["${package.web.path}/web"]
}
