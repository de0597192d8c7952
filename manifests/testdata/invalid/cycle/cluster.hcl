deployment "cf" {}

infrastructure "local" {}

group "a" {
  depends_on = [group.b]
}

group "b" {
  job "nginx" {
    properties {
      routers = group.c.instances[*].address
    }
  }
}

group "c" {
  depends_on = [group.a]
}
