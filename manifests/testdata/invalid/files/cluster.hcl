deployment "files" {}
infrastructure "local" {}

release "mine" {
  path = "./jobs"
}

group "g" {
  job "web" {}
  job "text" {}
}
