# A cluster on machines that exist: yours, with Linux and an SSH server, root or
# not. Each runs one instance; which one stands below, so it stays that way.
#
#   ssh-keyscan -t ed25519 192.0.2.10     prints a host key, behind the host's name
#   bin/deploy apply examples/hosts.hcl   puts the agent there, and what belongs to it
#   bin/deploy destroy examples/hosts.hcl leaves the machines as they were

deployment "web" {
  domain = "web.example"
}

infrastructure "hosts" {
  user        = "root"
  private_key = "~/.ssh/id_ed25519" # without this line: the keys of your SSH agent

  instances = {
    "nats/0"   = { address = "192.0.2.10", host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB" }
    "router/0" = { address = "192.0.2.20", host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC" }
    "hello/0"  = { address = "192.0.2.30", host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD" }

    # An ordinary user will do where no job needs more.
    "hello/1" = {
      address   = "192.0.2.31"
      host_key  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE"
      user      = "ops"
      agent_dir = "/home/ops/deploy"
    }
  }
}

release "examples" {
  path = "./jobs"
}

secret "nats" {
  type = "password"
}

group "nats" {
  instances = 1

  job "nats" {
    properties {
      password = secret.nats.value
    }
  }
}

# Listens on port 8081 of its machine.
group "router" {
  instances = 1

  job "router" {}
}

group "hello" {
  instances = 2

  job "hello" {}
}
