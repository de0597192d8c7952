terraform {
  required_version = ">= 1.5"
  required_providers {
    libvirt = {
      source  = "dmacvicar/libvirt"
      version = "0.7.6"
    }
    localvm = {
      source = "deploy.internal/deploy/localvm" # part of deploy itself
    }
  }
}

provider "libvirt" {
  uri = local.uri
}

locals {
  uri         = try(var.settings.uri, "qemu:///system")
  emulator    = try(var.settings.emulator, "/usr/bin/qemu-system-x86_64")
  accelerator = try(var.settings.accelerator, "auto")
  # A range of its own for each deployment, if the manifest does not say which.
  cidr    = try(var.settings.cidr, "10.${64 + parseint(substr(sha256(var.deployment.id), 0, 4), 16) % 64}.${parseint(substr(sha256(var.deployment.id), 4, 2), 16)}.0/24")
  gateway = try(var.settings.gateway, cidrhost(local.cidr, 1))
  shared  = try(var.settings.network, "")
  name    = "${var.deployment.name}-${substr(sha256(var.deployment.id), 0, 8)}"
  names   = { for key in keys(var.instances) : key => "${local.name}-${replace(replace(key, "/", "-"), "+", "b")}" }
  image   = try(var.settings.image, "")
  files   = { for key, instance in var.instances : key => instance.image != "" ? instance.image : local.image }
  # A stemcell's file is named after its digest, wherever it lies: what is made of it
  # does not change with its folder.
  images  = { for key, file in local.files : key => try(regex("^[0-9a-f]{64}(?:[.][a-z0-9]+)?$", basename(file)), file) }
  sources = { for key, image in local.images : image => local.files[key]... }
  kvm     = local.accelerator == "kvm" || local.accelerator == "auto" && data.localvm_accelerator.here.kvm
  # Under emulation a boot to SSH took five minutes on a machine of two cores where 24
  # programs wanted one; on an idle one it is a fraction of that.
  boot_seconds = try(tonumber(var.settings.boot_seconds), local.kvm ? 300 : 900)
  console      = try(var.settings.console_dir, "/var/log/libvirt/qemu")
  # Without instances and disks there is nothing to make, not even a network.
  any = length(var.instances) + length(var.disks) > 0 ? { all = true } : {}

  disks  = { for key in keys(var.instances) : key => trimsuffix(key, "+") if try(var.disks[trimsuffix(key, "+")].attached, false) }
  folder = "/var/lib/deploy-disk"

  # What the first boot does, and what the manifest adds to it: on a conflict ours holds,
  # lists become one.
  own_data = { for key, instance in var.instances : key => join("\n", ["#cloud-config", jsonencode({
    hostname            = substr("${instance.group}-${instance.index}", 0, 63) # the agent sets its own
    fqdn                = "${instance.group}-${instance.index}.${var.deployment.name}.internal"
    ssh_authorized_keys = [var.ssh_public_key]
    write_files = contains(keys(local.disks), key) ? [
      { path = "/etc/deploy/disk", content = "DEVICE=/dev/vdb\nFOLDER=${local.folder}\n" }
    ] : []
  })]) }
  user_data = { for key, instance in var.instances : key => instance.user_data == "" ? local.own_data[key] : join("\n", ["#cloud-config-archive", jsonencode([
    { content = local.own_data[key] },
    { content = instance.user_data, "X-Merge-Type" = "dict(no_replace,recurse_array)+list(append)+str()" },
  ])]) }
}

data "localvm_accelerator" "here" {
  emulator = local.emulator
}

resource "libvirt_pool" "pool" {
  for_each = local.any

  name = local.name
  type = "dir"
  path = "${try(var.settings.dir, "/var/lib/libvirt/images")}/${local.name}"
}

resource "libvirt_network" "network" {
  for_each = local.shared == "" ? local.any : {}

  name      = local.name
  mode      = try(var.settings.mode, "nat")
  addresses = [local.cidr]
  autostart = true
  dhcp { enabled = false } # cloud-init sets the addresses
  dns { enabled = false }
}

# Uploaded once; VMs are copies on write of it.
resource "libvirt_volume" "image" {
  for_each = { for image, files in local.sources : image => files[0] if image != "" }

  name   = "image-${substr(sha256(each.key), 0, 12)}"
  pool   = libvirt_pool.pool["all"].name
  source = each.value
  format = endswith(each.key, ".raw") ? "raw" : "qcow2"

  lifecycle {
    ignore_changes = [source] # another folder, the same image
  }
}

resource "libvirt_volume" "root" {
  for_each = var.instances

  name           = "${replace(replace(each.key, "/", "-"), "+", "b")}.qcow2"
  pool           = libvirt_pool.pool["all"].name
  base_volume_id = libvirt_volume.image[local.images[each.key]].id
  size           = (each.value.disk_gb == 0 ? 4 : each.value.disk_gb) * 1073741824
  format         = "qcow2"

  lifecycle {
    precondition {
      condition     = local.images[each.key] != ""
      error_message = "Infrastructure \"libvirt\" has no image for ${each.key}: build one with make stemcell and say image = \"its path\" in the vm block or the infrastructure block."
    }
  }
}

# A disk outlives its VM: it is a volume of its own.
resource "libvirt_volume" "disk" {
  for_each = var.disks

  name   = "disk-${replace(each.key, "/", "-")}.qcow2"
  pool   = libvirt_pool.pool["all"].name
  size   = each.value.size_gb * 1073741824
  format = "qcow2"
}

resource "localvm_address" "address" {
  for_each = var.instances

  cidr   = local.cidr
  skip   = local.shared == "" ? 9 : try(var.settings.skip, 99)
  static = each.value.static_address
}

# What a VM is made of: if it changes, so does the VM. All else of the first boot's
# settings (keys, tags) changes no VM that is there.
resource "terraform_data" "made_of" {
  for_each = var.instances

  input = jsonencode([local.images[each.key], localvm_address.address[each.key].address, contains(keys(local.disks), each.key), local.cidr])
}

resource "libvirt_cloudinit_disk" "seed" {
  for_each = var.instances

  name = "${replace(replace(each.key, "/", "-"), "+", "b")}.iso"
  pool = libvirt_pool.pool["all"].name
  # All settings are on this disk: "local" has cloud-init do all of them in one stage,
  # before the network.
  meta_data = jsonencode({ "instance-id" = local.names[each.key], "local-hostname" = substr("${each.value.group}-${each.value.index}", 0, 63), dsmode = "local" })
  network_config = jsonencode({
    version = 2
    ethernets = { eth0 = {
      addresses = ["${localvm_address.address[each.key].address}/${split("/", local.cidr)[1]}"]
      routes    = [{ to = "0.0.0.0/0", via = local.gateway }]
    } }
  })
  user_data = local.user_data[each.key]

  lifecycle {
    ignore_changes       = [user_data, meta_data, network_config]
    replace_triggered_by = [terraform_data.made_of[each.key]]
  }
}

resource "libvirt_domain" "vm" {
  for_each = var.instances

  name        = local.names[each.key]
  description = jsonencode(merge(each.value.tags, { deployment = var.deployment.name, deployment_id = var.deployment.id, instance = trimsuffix(each.key, "+") }))
  type        = local.kvm ? "kvm" : "qemu"
  emulator    = local.emulator
  machine     = "pc"
  vcpu        = each.value.cpus == 0 ? 1 : each.value.cpus
  memory      = each.value.memory_mb == 0 ? 512 : each.value.memory_mb
  running     = true
  autostart   = true
  cloudinit   = libvirt_cloudinit_disk.seed[each.key].id

  dynamic "disk" {
    for_each = concat([libvirt_volume.root[each.key].id], contains(keys(local.disks), each.key) ? [libvirt_volume.disk[local.disks[each.key]].id] : [])
    content {
      volume_id = disk.value
    }
  }

  network_interface {
    network_id   = local.shared == "" ? libvirt_network.network["all"].id : null
    network_name = local.shared == "" ? null : local.shared
  }

  console {
    type        = "pty"
    target_port = "0"
    target_type = "serial"
  }

  xml {
    xslt = templatefile("${path.module}/domain.xsl", { console = "${local.console}/${local.names[each.key]}-console.log", tcg = local.kvm ? "" : "yes" })
  }

  lifecycle {
    ignore_changes       = [description, type] # tags, and another finding of whether KVM works, change no VM that is there
    replace_triggered_by = [libvirt_volume.root[each.key], libvirt_cloudinit_disk.seed[each.key]]
  }
}
