deployment "d" {}
infrastructure "local" {}

group "router" {
  job "router" {} # error: Missing link
}
