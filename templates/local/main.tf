terraform {
  required_version = ">= 1.5"
  required_providers {
    localvm = {
      source = "deploy.internal/deploy/localvm" # part of deploy itself
    }
  }
}

locals {
  network   = try(var.settings.network, "loopback")
  cidr      = try(var.settings.cidr, local.network == "bridge" ? "10.40.0.0/16" : "127.40.0.0/16")
  ssh_port  = try(var.settings.ssh_port, 2222)
  isolation = try(var.settings.isolation, "auto")
  publish = {
    for address, target in try(var.settings.publish, {}) :
    address => { group = split(":", target)[0], port = split(":", target)[1] } if length(var.instances) > 0 # else only disks are left
  }
}

# A stemcell is a file whose name is its digest. It boots nothing here, but another
# one makes another VM.
locals {
  stemcells = { for key, instance in var.instances : key => try(regex("^[0-9a-f]{64}", basename(instance.image)), "") }
}

resource "localvm_disk" "disk" {
  for_each = var.disks

  group   = each.value.group
  index   = each.value.index
  size_gb = each.value.size_gb
}

resource "localvm_machine" "vm" {
  for_each = var.instances

  group          = each.value.group
  index          = each.value.index
  beside         = endswith(each.key, "+")
  cidr           = local.cidr
  static_address = each.value.static_address
  ssh_port       = local.ssh_port
  ssh_public_key = var.ssh_public_key
  isolation      = local.isolation
  network        = local.network
  cpus           = each.value.cpus
  memory_mb      = each.value.memory_mb
  image          = local.stemcells[each.key] == "" ? each.value.image : ""
  options        = local.stemcells[each.key] == "" ? each.value.options : merge(each.value.options, { stemcell = local.stemcells[each.key] })
  disk           = try(var.disks[trimsuffix(each.key, "+")].attached, false) ? localvm_disk.disk[trimsuffix(each.key, "+")].path : ""
  tags           = merge(each.value.tags, { deployment = var.deployment.name, deployment_id = var.deployment.id })
}

resource "localvm_publish" "address" {
  for_each = local.publish

  listen = each.key
  targets = [
    for key, instance in var.instances :
    "${localvm_machine.vm[key].address}:${each.value.port}" if instance.group == each.value.group
  ]

  lifecycle {
    precondition {
      condition     = contains([for instance in var.instances : instance.group], each.value.group)
      error_message = "Infrastructure \"local\" is to publish ${each.key}, but group \"${each.value.group}\" has no instances."
    }
  }
}
