deployment "cf" {}

infrastructure "local" {}

group "router" {
  job "dea" {}
}
