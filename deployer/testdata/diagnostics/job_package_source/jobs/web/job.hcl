package "web" {
  apt = ["web"]
}
