description = "The health manager of a devbox image, with the image's configuration"

consumes "bus" {}

mbus {
  files = ["devbox/config/*.yml"]
}

process "health_manager" {
  command = ["${path.image}/devbox/bin/health_manager", "-c", "${path.image}/devbox/config/health_manager.yml"]
  control = true
}
