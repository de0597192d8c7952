description = "The stager of a devbox image, with the image's configuration"

consumes "bus" {}

mbus {
  files = ["devbox/config/*.yml"]
}

process "stager" {
  command = ["${path.image}/devbox/bin/stager", "-c", "${path.image}/devbox/config/stager.yml"]
  control = true
}
