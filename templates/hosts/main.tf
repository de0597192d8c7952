terraform {
  required_version = ">= 1.5"
}

locals {
  given = try(tomap({ for id, m in var.settings.instances : id => jsonencode(m) }), {}) # one type for all
  defaults = {
    ssh_port    = try(var.settings.ssh_port, 22)
    user        = try(var.settings.user, "root")
    private_key = try(var.settings.private_key, "agent")
    agent_dir   = try(var.settings.agent_dir, "/var/lib/deploy")
    os          = try(var.settings.os, "linux")
    arch        = try(var.settings.arch, "amd64")
  }

  # Every machine of the manifest, spare ones included.
  machines = {
    for id, text in local.given : id => {
      address     = try(tostring(jsondecode(text).address), "")
      ssh_host    = try(tostring(jsondecode(text).ssh_host), tostring(jsondecode(text).address), "")
      ssh_port    = try(tonumber(jsondecode(text).ssh_port), local.defaults.ssh_port)
      user        = try(tostring(jsondecode(text).user), local.defaults.user)
      private_key = try(tostring(jsondecode(text).private_key), local.defaults.private_key)
      host_key    = try(trimspace(jsondecode(text).host_key), "")
      agent_dir   = try(tostring(jsondecode(text).agent_dir), local.defaults.agent_dir)
      az          = try(tostring(jsondecode(text).az), "")
      disk        = try(tostring(jsondecode(text).disk), "")
      os          = try(tostring(jsondecode(text).os), local.defaults.os)
      arch        = try(tostring(jsondecode(text).arch), local.defaults.arch)
    }
  }
  none = {
    address = "", ssh_host = "", ssh_port = 22, user = "", private_key = "", host_key = "", agent_dir = "", az = "",
    disk    = "", os = "", arch = ""
  }
  chosen = { for id, instance in var.instances : id => try(local.machines[id], local.none) }

  # A machine is where SSH leads to: its host key may become known, or be made
  # anew, without its being another one.
  ids = { for id, m in local.chosen : id => "${m.ssh_host}:${m.ssh_port}${m.agent_dir}" }

  missing = [for id, instance in var.instances : id if !contains(keys(local.given), id)]
  misplaced = [
    for id, m in local.chosen : "${id} is to be in ${var.instances[id].az} and its machine is in ${m.az}"
    if m.az != "" && var.instances[id].az != "" && m.az != var.instances[id].az
  ]
  elsewhere = [
    for id, m in local.chosen : "${id} is to have ${var.instances[id].static_address} and its machine has ${m.address}"
    if var.instances[id].static_address != "" && m.address != var.instances[id].static_address
  ]
  diskless = [for id, disk in var.disks : id if disk.attached && try(local.chosen[id].disk, "") == "" && !contains(local.missing, id)]
}

# Nothing is made: the machines are there. The resources are what the engine
# shows when an instance gets its machine, another one, or leaves it.
resource "terraform_data" "machine" {
  for_each = var.instances

  triggers_replace = local.ids[each.key]

  lifecycle {
    precondition {
      condition     = length(local.missing) == 0
      error_message = "Infrastructure \"hosts\" has no machine for ${join(", ", local.missing)}: add a line for each to instances. The line of an instance that is to be removed stays until an apply has removed it."
    }
    precondition {
      condition     = length(local.misplaced) == 0
      error_message = "Infrastructure \"hosts\" has a machine in another zone than its instance's: ${join("; ", local.misplaced)}. The zone of an instance is its own for life: give it a machine there."
    }
    precondition {
      condition     = length(local.elsewhere) == 0
      error_message = "Infrastructure \"hosts\" has a machine with another address than its instance's network says: ${join("; ", local.elsewhere)}."
    }
    precondition {
      condition     = length(local.diskless) == 0
      error_message = "Infrastructure \"hosts\" has no persistent disk for ${join(", ", local.diskless)}: say disk = \"/a/folder\" on the machine's line."
    }
  }
}
