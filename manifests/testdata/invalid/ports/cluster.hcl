deployment "ports" {
  metrics {
    port = 9100
  }
}

infrastructure "local" {}

release "mine" {
  path = "./jobs"
}

# Each its own port: nothing to say.
group "fine" {
  instances = 3
  job "web" {}
  job "other" {
    properties { fixed = 9101 }
  }
}

group "metrics" {
  job "other" {}
}

group "both" {
  job "web" {}
  job "other" {
    properties { fixed = 8070 }
  }
}

group "third_instance" {
  instances = 3
  job "web" {
    properties { port = 9002 }
  }
  job "other" {
    properties { fixed = 9101 }
  }
}

group "large" {
  job "web" {
    properties { port = 70000 }
  }
}

group "zero" {
  job "web" {
    properties { port = 0 }
  }
}

group "half" {
  job "web" {
    properties { port = 80.5 }
  }
}

group "null" {
  job "web" {
    properties { port = 1 - 6 }
  }
}
