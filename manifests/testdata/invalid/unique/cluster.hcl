deployment "unique" {}

infrastructure "local" {}

release "mine" {
  path = "./jobs"
}

group "nodes" {
  instances = 2
  job "store" {}
}

# One instance more than those that share a name.
group "more" {
  instances = 3
  job "store" {}
}

# Another plan, another name: nothing to say.
group "large" {
  instances = 2
  job "store" {
    properties { plan = "large" }
  }
}

group "none" {
  instances = 0
  job "store" {}
}

group "same" {
  instances = 2
  job "same" {}
}
