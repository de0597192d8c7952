deployment "d" {}
infrastructure "local" {}

group "one" {
  job "nats" {
    properties { password = "secret" }
  }
}
group "two" {
  job "nats" {
    properties { password = "secret" }
  }
}
group "router" {
  job "router" {} # error: Ambiguous link
}
group "chosen" {
  job "router" {
    links = { bus = "two" }
  }
}
group "misspelt" {
  job "router" { # error: Ambiguous link
    links = { buss = "two" } # error: Unknown link
  }
}
group "nowhere" {
  job "router" { # error: Ambiguous link
    links = { bus = "tow" } # error: Unknown group
  }
}
group "wrong" {
  job "router" { # error: Missing link
    links = { bus = group.chosen }
  }
}
group "list" {
  job "router" { # error: Ambiguous link
    links = ["two"] # error: Not a map of links
  }
}
