template "default.sh" {}

template "copied.sh" {
  raw = true
}
