terraform {
  required_version = ">= 1.5"
  required_providers {
    openstack = {
      source  = "terraform-provider-openstack/openstack"
      version = "3.4.0"
    }
  }
}

provider "openstack" {
  cloud = try(var.settings.cloud, null) # else the environment says
}

locals {
  name     = "${var.deployment.name}-${substr(sha256(var.deployment.id), 0, 8)}"
  names    = { for key in keys(var.instances) : key => "${local.name}-${replace(replace(key, "/", "-"), "+", "b")}" }
  cidr     = try(var.settings.cidr, "10.0.0.0/24")
  external = try(var.settings.external, "")
  any      = length(var.instances) > 0 ? { all = true } : {}
  # A stemcell is a file, named after its digest; all else is an image's name in Glance.
  files   = { for key, instance in var.instances : key => instance.image != "" ? instance.image : try(var.settings.image, "") }
  images  = { for key, file in local.files : key => startswith(file, "/") ? basename(file) : file }
  uploads = { for image, files in { for key, image in local.images : image => local.files[key]... } : image => files[0] if startswith(files[0], "/") }

  disks  = { for key in keys(var.instances) : key => trimsuffix(key, "+") if try(var.disks[trimsuffix(key, "+")].attached, false) }
  folder = "/var/lib/deploy-disk"
  # What clients from outside reach, by group and port.
  public = merge([for instance in values(var.instances) : {
    for p in instance.ports : "${instance.group} ${p.protocol} ${p.port}" => { group = instance.group, port = p.port, protocol = p.protocol } if p.public
  }]...)
  public_groups = toset([for p in values(local.public) : p.group])
  floating      = { for key, instance in var.instances : key => instance if local.external != "" && (try(var.settings.public_ssh, false) || contains(local.public_groups, instance.group)) }

  # What the first boot does, and what the manifest adds to it: on a conflict ours holds,
  # lists become one.
  own_data = { for key, instance in var.instances : key => join("\n", ["#cloud-config", jsonencode({
    hostname            = substr("${instance.group}-${instance.index}", 0, 63) # the agent sets its own
    fqdn                = "${instance.group}-${instance.index}.${var.deployment.name}.internal"
    ssh_authorized_keys = [var.ssh_public_key]
    write_files = contains(keys(local.disks), key) ? [
      { path = "/etc/deploy/disk", content = "DEVICE=/dev/disk/by-id/virtio-${substr(openstack_blockstorage_volume_v3.disk[local.disks[key]].id, 0, 20)}\nFOLDER=${local.folder}\n" }
    ] : []
  })]) }
  user_data = { for key, instance in var.instances : key => instance.user_data == "" ? local.own_data[key] : join("\n", ["#cloud-config-archive", jsonencode([
    { content = local.own_data[key] },
    { content = instance.user_data, "X-Merge-Type" = "dict(no_replace,recurse_array)+list(append)+str()" },
  ])]) }
}

resource "openstack_images_image_v2" "image" {
  for_each = local.uploads

  name             = "deploy-${substr(sha256(each.key), 0, 16)}"
  local_file_path  = each.value
  container_format = "bare"
  disk_format      = endswith(each.key, ".raw") ? "raw" : "qcow2"

  lifecycle {
    ignore_changes = [local_file_path] # another folder, the same image
  }
}

data "openstack_images_image_v2" "named" {
  for_each = toset([for image in values(local.images) : image if image != "" && !contains(keys(local.uploads), image)])

  name        = each.key
  most_recent = true
}

resource "openstack_networking_network_v2" "network" {
  for_each = local.any

  name = local.name
}

resource "openstack_networking_subnet_v2" "subnet" {
  for_each = local.any

  name       = local.name
  network_id = openstack_networking_network_v2.network["all"].id
  cidr       = local.cidr
}

data "openstack_networking_network_v2" "external" {
  for_each = local.external == "" ? {} : local.any

  name     = local.external
  external = true
}

resource "openstack_networking_router_v2" "router" {
  for_each = local.external == "" ? {} : local.any

  name                = local.name
  external_network_id = data.openstack_networking_network_v2.external["all"].id
}

resource "openstack_networking_router_interface_v2" "router" {
  for_each = local.external == "" ? {} : local.any

  router_id = openstack_networking_router_v2.router["all"].id
  subnet_id = openstack_networking_subnet_v2.subnet["all"].id
}

# Among themselves VMs reach everything; apps have ports of their own.
resource "openstack_networking_secgroup_v2" "vms" {
  for_each = local.any

  name        = local.name
  description = "VMs of the deployment ${var.deployment.name}"
}

resource "openstack_networking_secgroup_rule_v2" "inside" {
  for_each = local.any

  direction         = "ingress"
  ethertype         = "IPv4"
  remote_group_id   = openstack_networking_secgroup_v2.vms["all"].id
  security_group_id = openstack_networking_secgroup_v2.vms["all"].id
}

resource "openstack_networking_secgroup_rule_v2" "ssh" {
  for_each = local.any

  direction         = "ingress"
  ethertype         = "IPv4"
  protocol          = "tcp"
  port_range_min    = 22
  port_range_max    = 22
  remote_ip_prefix  = try(var.settings.ssh_from, "0.0.0.0/0")
  security_group_id = openstack_networking_secgroup_v2.vms["all"].id
}

# From outside, what a group's load balancers listen on.
resource "openstack_networking_secgroup_v2" "public" {
  for_each = local.public_groups

  name        = "${local.name}-${each.key}"
  description = "What clients reach of group ${each.key}"
}

resource "openstack_networking_secgroup_rule_v2" "public" {
  for_each = local.public

  direction         = "ingress"
  ethertype         = "IPv4"
  protocol          = each.value.protocol
  port_range_min    = each.value.port
  port_range_max    = each.value.port
  remote_ip_prefix  = "0.0.0.0/0"
  security_group_id = openstack_networking_secgroup_v2.public[each.value.group].id
}

# An address outlives its VM.
resource "openstack_networking_port_v2" "address" {
  for_each = var.instances

  name           = local.names[each.key]
  network_id     = openstack_networking_network_v2.network["all"].id
  admin_state_up = true
  security_group_ids = concat(
    [openstack_networking_secgroup_v2.vms["all"].id],
    contains(local.public_groups, each.value.group) ? [openstack_networking_secgroup_v2.public[each.value.group].id] : []
  )
  fixed_ip {
    subnet_id  = openstack_networking_subnet_v2.subnet["all"].id
    ip_address = each.value.static_address == "" ? null : each.value.static_address
  }
}

resource "openstack_networking_floatingip_v2" "public" {
  for_each = local.floating

  pool        = local.external
  port_id     = openstack_networking_port_v2.address[each.key].id
  description = "${var.deployment.name} ${each.key}"
  depends_on  = [openstack_networking_router_interface_v2.router]
}

# A disk outlives its VM: it is a volume of its own.
resource "openstack_blockstorage_volume_v3" "disk" {
  for_each = var.disks

  name                 = "${local.name}-${replace(each.key, "/", "-")}"
  size                 = each.value.size_gb
  availability_zone    = try(var.instances[each.key].az, "") == "" ? null : var.instances[each.key].az
  enable_online_resize = true

  lifecycle {
    ignore_changes = [availability_zone] # it is where its data is
  }
}

resource "openstack_compute_instance_v2" "vm" {
  for_each = var.instances

  name              = local.names[each.key]
  flavor_name       = try(each.value.options.flavor, var.settings.flavor, "")
  image_id          = contains(keys(local.uploads), local.images[each.key]) ? openstack_images_image_v2.image[local.images[each.key]].id : data.openstack_images_image_v2.named[local.images[each.key]].id
  availability_zone = each.value.az == "" ? null : each.value.az
  config_drive      = true
  metadata          = merge(each.value.tags, { deployment = var.deployment.name, deployment_id = var.deployment.id, instance = trimsuffix(each.key, "+") })
  user_data         = local.user_data[each.key]

  network {
    port = openstack_networking_port_v2.address[each.key].id
  }

  lifecycle {
    ignore_changes = [user_data]
    precondition {
      condition     = local.images[each.key] != "" && try(each.value.options.flavor, var.settings.flavor, "") != ""
      error_message = "Infrastructure \"openstack\" has no image or no flavor for ${each.key}: say stemcell or image and options = { flavor = \"...\" } in the vm block, or image and flavor in the infrastructure block."
    }
  }
}

resource "openstack_compute_volume_attach_v2" "attachment" {
  for_each = local.disks

  instance_id = openstack_compute_instance_v2.vm[each.key].id
  volume_id   = openstack_blockstorage_volume_v3.disk[each.value].id
}
