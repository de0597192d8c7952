description = var.x # error: Unknown reference

property "a" {
  type     = number
  default  = "x" # error: Wrong type
  required = "yes!" # error: Wrong type
}
property "a" {} # error: Duplicate property
property "b" {
  type     = string
  required = true
  default  = "b" # error: Default of a required property
}
property "c d" { # error: Invalid name
  on_change = "reload" # error: Unknown on_change
}
property "e" {
  type = list(strng) # error: Invalid type specification
  validation { # error: Missing required argument
    error_message = "x"
  }
}
property "f" {
  type   = number
  levels = ["1", "2"] # error: Levels of another type
}
property "g" {
  type   = string
  levels = ["low", "low"] # error: Wrong levels
}
property "h" {
  type      = string
  sensitive = true
  levels    = ["low", "high"] # error: Sensitive levels
}

provides "bus" { properties = ["a", "bb"] } # error: Unknown property

package "none" {} # error: Package without a source
package "both" { # error: Package without a source
  program = "x"
  system  = "x"
}
package "apt" {
  program = "x"
  apt     = ["x"] # error: Unsupported argument
}

template "missing.yml" {} # error: Missing template
template "../job.hcl" { # error: Missing template
  destination = "x"
}
template "there.yml" {
  mode        = "0999"      # error: Invalid mode
  on_change   = "explode"   # error: Unknown on_change
  process     = "mian"      # error: Unknown process
  destination = "/etc/shadow" # error: Invalid destination
}
template "also.yml" { destination = "x" } # error: Duplicate destination

process "main" {
  command     = "run" # error: Wrong type
  kill_mode   = "everyone" # error: Unknown kill_mode
  stop_signal = "SIGTERM"  # error: Unknown stop_signal
  stop_grace  = "-1s"      # error: Not a length of time
  open_files  = 0          # error: Number out of range
  env         = ["A=b"]    # error: Wrong type
  umask       = 0          # error: Unsupported argument
  component   = "perhaps"  # error: Wrong type
  restart_on  = propety.a  # error: Unknown reference

  check "htp" {} # error: Unknown kind of check
  check "tcp" {} # error: Missing required argument
  check "exec" {
    command = ["true"]
    target  = "x"   # error: Unsupported argument
    timeout = "1"   # error: Not a length of time
    failures = 0    # error: Number out of range
  }
  reload { # error: One way to reload
    signal  = "HUP"
    control = true # error: Reload without a control socket
  }
  route { # error: Missing required argument
    host  = "x.example"
    ports = 1 # error: Unsupported argument
  }
}
process "main" { command = ["x"] } # error: Duplicate process
process "none" {} # error: Missing required argument

hook "before" { command = ["x"] } # error: Unknown kind of hook
hook "drain" {
  command    = ["x"]
  on_timeout = "ignore" # error: Unknown on_timeout
}
hook "drain" { command = ["y"] } # error: Duplicate hook
hook "errand" { command = ["y"] } # error: Missing required argument
hook "errand" {
  name    = "Smoke Test" # error: Invalid name
  command = ["y"]
}

listen "none" {} # error: Missing required argument
listen "http" {
  port    = "http" # error: Wrong type
  network = "sctp" # error: Unknown network
}

mbus {
  files   = ["[a"] # error: Invalid pattern
  servers = ["h:1"]
}
mbus { files = [] } # error: Duplicate mbus block
