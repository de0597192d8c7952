description = "The DEA of a devbox image, with the image's configuration"

consumes "bus" {}

mbus {
  files = ["devbox/config/*.yml"]
}

# As long as apps may take to start elsewhere and to end.
hook "drain" {
  command = ["/bin/true"]
  timeout = "60s"
}

process "dea" {
  command   = ["${path.image}/devbox/bin/dea", "-c", "${path.image}/devbox/config/dea.yml"]
  kill_mode = "process" # apps run on while the DEA itself is started again
  control   = true
}
