template "curl.sh" {}

template "logo.png" {}

template "copied.png" {
  raw = true
}
