package "web" {
  program = "web"
}

process "web" {
  command = ["${package.wep.path}/web"]
}
