terraform {
  required_version = ">= 1.5"
  required_providers {
    hcloud = {
      source  = "hetznercloud/hcloud"
      version = "1.52.0"
    }
    localvm = {
      source = "deploy.internal/deploy/localvm" # part of deploy itself
    }
  }
}

provider "hcloud" {} # HCLOUD_TOKEN

locals {
  name   = "${var.deployment.name}-${substr(sha256(var.deployment.id), 0, 8)}"
  names  = { for key in keys(var.instances) : key => "${local.name}-${replace(replace(key, "/", "-"), "+", "b")}" }
  cidr   = try(var.settings.cidr, "10.0.0.0/24")
  any    = length(var.instances) > 0 ? { all = true } : {}
  images = { for key, instance in var.instances : key => instance.image != "" ? instance.image : try(tostring(var.settings.image), "") }
  azs    = merge({ "" = "fsn1" }, try(var.settings.locations, {}))
  places = { for key, instance in var.instances : key => lookup(local.azs, instance.az, instance.az) }

  disks  = { for key in keys(var.instances) : key => trimsuffix(key, "+") if try(var.disks[trimsuffix(key, "+")].attached, false) }
  folder = "/var/lib/deploy-disk"
  # What clients from outside reach, by group.
  public = { for group in toset([for instance in values(var.instances) : instance.group]) : group => distinct(flatten([
    for instance in values(var.instances) : [for p in instance.ports : "${p.protocol} ${p.port}" if p.public] if instance.group == group
  ])) }

  # What the first boot does, and what the manifest adds to it: on a conflict ours holds,
  # lists become one.
  own_data = { for key, instance in var.instances : key => join("\n", ["#cloud-config", jsonencode({
    hostname            = substr("${instance.group}-${instance.index}", 0, 63) # the agent sets its own
    fqdn                = "${instance.group}-${instance.index}.${var.deployment.name}.internal"
    ssh_authorized_keys = [var.ssh_public_key]
    write_files = contains(keys(local.disks), key) ? [
      { path = "/etc/deploy/disk", content = "DEVICE=/dev/disk/by-id/scsi-0HC_Volume_${hcloud_volume.disk[local.disks[key]].id}\nFOLDER=${local.folder}\n" }
    ] : []
  })]) }
  user_data = { for key, instance in var.instances : key => instance.user_data == "" ? local.own_data[key] : join("\n", ["#cloud-config-archive", jsonencode([
    { content = local.own_data[key] },
    { content = instance.user_data, "X-Merge-Type" = "dict(no_replace,recurse_array)+list(append)+str()" },
  ])]) }
}

# Uploaded so that the cloud mails no password; user data lets deploy's key in too.
resource "hcloud_ssh_key" "key" {
  for_each = local.any

  name       = local.name
  public_key = var.ssh_public_key
}

resource "hcloud_network" "network" {
  for_each = local.any

  name     = local.name
  ip_range = local.cidr
}

resource "hcloud_network_subnet" "subnet" {
  for_each = local.any

  network_id   = hcloud_network.network["all"].id
  type         = "cloud"
  network_zone = try(var.settings.network_zone, "eu-central")
  ip_range     = local.cidr
}

# Firewalls hold for the public network; the private one is the VMs' own.
resource "hcloud_firewall" "ssh" {
  for_each = local.any

  name = "${local.name}-ssh"
  rule {
    direction  = "in"
    protocol   = "tcp"
    port       = "22"
    source_ips = try(var.settings.ssh_from, ["0.0.0.0/0", "::/0"])
  }
}

resource "hcloud_firewall" "public" {
  for_each = { for group, ports in local.public : group => ports if length(ports) > 0 }

  name = "${local.name}-${each.key}"
  dynamic "rule" {
    for_each = each.value
    content {
      direction  = "in"
      protocol   = split(" ", rule.value)[0]
      port       = split(" ", rule.value)[1]
      source_ips = ["0.0.0.0/0", "::/0"]
    }
  }
}

# The first address of the range is the cloud's gateway.
resource "localvm_address" "address" {
  for_each = var.instances

  cidr   = local.cidr
  skip   = 9
  static = each.value.static_address
}

# A disk outlives its VM: it is a volume of its own. The cloud has none below 10 GB.
resource "hcloud_volume" "disk" {
  for_each = var.disks

  name     = "${local.name}-${replace(each.key, "/", "-")}"
  size     = max(10, each.value.size_gb)
  location = lookup(local.places, each.key, local.azs[""])

  lifecycle {
    ignore_changes = [location] # it is where its data is
  }
}

resource "hcloud_server" "vm" {
  for_each = var.instances

  name         = local.names[each.key]
  server_type  = try(each.value.options.server_type, var.settings.server_type, "cx22")
  image        = local.images[each.key]
  location     = local.places[each.key]
  ssh_keys     = [hcloud_ssh_key.key["all"].id]
  firewall_ids = concat([hcloud_firewall.ssh["all"].id], [for group, firewall in hcloud_firewall.public : firewall.id if group == each.value.group])
  labels       = { deployment_id = substr(sha256(var.deployment.id), 0, 32), instance = "${each.value.group}-${each.value.index}" }
  user_data    = local.user_data[each.key]

  network {
    network_id = hcloud_network.network["all"].id
    ip         = localvm_address.address[each.key].address
  }

  depends_on = [hcloud_network_subnet.subnet]

  lifecycle {
    ignore_changes = [user_data, ssh_keys]
    precondition {
      condition     = local.images[each.key] != "" && !startswith(local.images[each.key], "/")
      error_message = "Infrastructure \"hcloud\" has no image for ${each.key}, or a file: the cloud takes no uploads. Make a snapshot of the stemcell (templates/hcloud/README.md) and say image = \"its id\"."
    }
  }
}

resource "hcloud_volume_attachment" "attachment" {
  for_each = local.disks

  volume_id = hcloud_volume.disk[each.value].id
  server_id = hcloud_server.vm[each.key].id
  automount = false
}
