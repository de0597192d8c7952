terraform {
  required_version = ">= 1.5"
  required_providers {
    proxmox = {
      source  = "bpg/proxmox"
      version = "0.85.0"
    }
    localvm = {
      source = "deploy.internal/deploy/localvm" # part of deploy itself
    }
  }
}

provider "proxmox" { # PROXMOX_VE_ENDPOINT, PROXMOX_VE_API_TOKEN
  insecure = try(var.settings.insecure, false)
  ssh {
    agent    = true
    username = try(var.settings.ssh_user, "root")
  }
}

locals {
  name      = "${var.deployment.name}-${substr(sha256(var.deployment.id), 0, 8)}"
  names     = { for key in keys(var.instances) : key => replace("${local.name}-${replace(replace(key, "/", "-"), "+", "b")}", "_", "-") }
  cidr      = try(var.settings.cidr, "")
  gateway   = try(var.settings.gateway, cidrhost(local.cidr, 1))
  datastore = try(var.settings.datastore, "local-lvm")
  files     = try(var.settings.files, "local")
  nodes     = merge({ "" = "pve" }, try(var.settings.nodes, {}))
  places    = { for key, instance in var.instances : key => lookup(local.nodes, instance.az, instance.az) }

  image = try(tostring(var.settings.image), "")
  paths = { for key, instance in var.instances : key => instance.image != "" ? instance.image : local.image }
  # A stemcell's file is named after its digest, wherever it lies.
  images = { for key, path in local.paths : key => try(regex("^[0-9a-f]{64}(?:[.][a-z0-9]+)?$", basename(path)), path) }
  # A path is uploaded to each node that needs it; anything else is there, such as "local:iso/base.img".
  uploads = { for key, image in local.images : "${local.places[key]} ${image}" => { node = local.places[key], path = local.paths[key], image = image }... if startswith(local.paths[key], "/") }

  disks  = { for key in keys(var.instances) : key => trimsuffix(key, "+") if try(var.disks[trimsuffix(key, "+")].attached, false) }
  folder = "/var/lib/deploy-disk"

  # What the first boot does, and what the manifest adds to it: on a conflict ours holds,
  # lists become one.
  own_data = { for key, instance in var.instances : key => join("\n", ["#cloud-config", jsonencode({
    hostname            = substr("${instance.group}-${instance.index}", 0, 63) # the agent sets its own
    fqdn                = "${instance.group}-${instance.index}.${var.deployment.name}.internal"
    ssh_authorized_keys = [var.ssh_public_key]
    write_files = contains(keys(local.disks), key) ? [
      { path = "/etc/deploy/disk", content = "DEVICE=/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-scsi1\nFOLDER=${local.folder}\n" }
    ] : []
  })]) }
  user_data = { for key, instance in var.instances : key => instance.user_data == "" ? local.own_data[key] : join("\n", ["#cloud-config-archive", jsonencode([
    { content = local.own_data[key] },
    { content = instance.user_data, "X-Merge-Type" = "dict(no_replace,recurse_array)+list(append)+str()" },
  ])]) }
}

resource "proxmox_virtual_environment_file" "image" {
  for_each = { for key, uploads in local.uploads : key => uploads[0] }

  node_name    = each.value.node
  datastore_id = local.files
  content_type = "iso"
  source_file {
    path      = each.value.path
    file_name = "deploy-${substr(sha256(each.value.image), 0, 12)}.img"
  }

  lifecycle {
    ignore_changes = [source_file[0].path] # another folder, the same image
  }
}

resource "localvm_address" "address" {
  for_each = var.instances

  cidr   = local.cidr
  skip   = try(var.settings.skip, 99)
  static = each.value.static_address
}

# A disk outlives its VM, which here no disk can do: it belongs to a VM of its own,
# which never runs, and the instance's VM attaches it.
resource "proxmox_virtual_environment_vm" "disk" {
  for_each = var.disks

  name        = replace("${local.name}-disk-${replace(each.key, "/", "-")}", "_", "-")
  description = "Holds the persistent disk of ${each.key} of ${var.deployment.name}. Not to be started, nor removed."
  node_name   = lookup(local.places, each.key, local.nodes[""])
  started     = false
  on_boot     = false

  disk {
    datastore_id = local.datastore
    interface    = "scsi0"
    file_format  = "raw"
    size         = each.value.size_gb
  }

  lifecycle {
    ignore_changes = [node_name] # it is where its data is
  }
}

# What a VM is made of: if it changes, so does the VM. All else of the first boot's
# settings (keys, tags) changes no VM that is there.
resource "terraform_data" "made_of" {
  for_each = var.instances

  input = jsonencode([local.images[each.key], local.places[each.key], localvm_address.address[each.key].address, contains(keys(local.disks), each.key), local.cidr])
}

# Snippets are put onto the node by SSH, since the API takes none.
resource "proxmox_virtual_environment_file" "user_data" {
  for_each = var.instances

  node_name    = local.places[each.key]
  datastore_id = try(var.settings.snippets, local.files)
  content_type = "snippets"
  source_raw {
    file_name = "${local.names[each.key]}.yaml"
    data      = local.user_data[each.key]
  }

  lifecycle {
    ignore_changes       = [source_raw]
    replace_triggered_by = [terraform_data.made_of[each.key]]
  }
}

resource "proxmox_virtual_environment_vm" "vm" {
  for_each = var.instances

  name          = local.names[each.key]
  description   = jsonencode(merge(each.value.tags, { deployment = var.deployment.name, deployment_id = var.deployment.id, instance = trimsuffix(each.key, "+") }))
  node_name     = local.places[each.key]
  pool_id       = try(var.settings.pool, null)
  on_boot       = true
  started       = true
  scsi_hardware = "virtio-scsi-pci"

  cpu {
    cores = each.value.cpus == 0 ? 1 : each.value.cpus
    type  = try(each.value.options.cpu, var.settings.cpu, "x86-64-v2-AES")
  }

  memory {
    dedicated = each.value.memory_mb == 0 ? 512 : each.value.memory_mb
  }

  disk {
    datastore_id = local.datastore
    interface    = "scsi0"
    size         = each.value.disk_gb == 0 ? 4 : each.value.disk_gb
    file_id      = startswith(local.paths[each.key], "/") ? proxmox_virtual_environment_file.image["${local.places[each.key]} ${local.images[each.key]}"].id : local.paths[each.key]
  }

  dynamic "disk" {
    for_each = contains(keys(local.disks), each.key) ? [proxmox_virtual_environment_vm.disk[local.disks[each.key]].disk[0]] : []
    content {
      datastore_id      = disk.value.datastore_id
      path_in_datastore = disk.value.path_in_datastore
      file_format       = disk.value.file_format
      size              = disk.value.size
      interface         = "scsi1"
    }
  }

  network_device {
    bridge  = try(each.value.options.bridge, var.settings.bridge, "vmbr0")
    vlan_id = try(tonumber(var.settings.vlan), null)
  }

  serial_device {}

  operating_system {
    type = "l26"
  }

  initialization {
    datastore_id      = local.datastore
    user_data_file_id = proxmox_virtual_environment_file.user_data[each.key].id
    ip_config {
      ipv4 {
        address = "${localvm_address.address[each.key].address}/${split("/", local.cidr)[1]}"
        gateway = local.gateway
      }
    }
  }

  lifecycle {
    ignore_changes       = [description, initialization] # tags and keys change no VM that is there
    replace_triggered_by = [terraform_data.made_of[each.key]]
    precondition {
      condition     = local.paths[each.key] != ""
      error_message = "Infrastructure \"proxmox\" has no image for ${each.key}: build one with make stemcell and say image = \"its path\" in the vm block or the infrastructure block."
    }
  }
}
