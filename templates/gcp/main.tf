terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.0"
    }
  }
}

provider "google" {
  project = var.settings.project # credentials: GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login
  region  = var.settings.region
}

locals {
  name    = "${var.deployment.name}-${substr(sha256(var.deployment.id), 0, 8)}"
  names   = { for key in keys(var.instances) : key => "${local.name}-${replace(replace(replace(key, "/", "-"), "+", "b"), "_", "-")}" }
  any     = length(var.instances) > 0 ? { all = true } : {}
  images  = { for key, instance in var.instances : key => instance.image != "" ? instance.image : try(var.settings.image, "") }
  zones   = merge({ "" = "${var.settings.region}-b" }, try(var.settings.zones, {}))
  network = try(var.settings.network, "default")

  disks  = { for key in keys(var.instances) : key => trimsuffix(key, "+") if try(var.disks[trimsuffix(key, "+")].attached, false) }
  folder = "/var/lib/deploy-disk"
  # What clients from outside reach, by group.
  public = { for group in toset([for instance in values(var.instances) : instance.group]) : group => distinct(flatten([
    for instance in values(var.instances) : [for p in instance.ports : { protocol = p.protocol, port = p.port } if p.public] if instance.group == group
  ])) }

  # What the first boot does, and what the manifest adds to it: on a conflict ours holds,
  # lists become one.
  own_data = { for key, instance in var.instances : key => join("\n", ["#cloud-config", jsonencode({
    hostname            = substr("${instance.group}-${instance.index}", 0, 63) # the agent sets its own
    fqdn                = "${instance.group}-${instance.index}.${var.deployment.name}.internal"
    ssh_authorized_keys = [var.ssh_public_key]
    write_files = contains(keys(local.disks), key) ? [
      { path = "/etc/deploy/disk", content = "DEVICE=/dev/disk/by-id/google-deploy\nFOLDER=${local.folder}\n" }
    ] : []
  })]) }
  user_data = { for key, instance in var.instances : key => instance.user_data == "" ? local.own_data[key] : join("\n", ["#cloud-config-archive", jsonencode([
    { content = local.own_data[key] },
    { content = instance.user_data, "X-Merge-Type" = "dict(no_replace,recurse_array)+list(append)+str()" },
  ])]) }
}

# Among themselves VMs reach everything; apps have ports of their own.
resource "google_compute_firewall" "inside" {
  for_each = local.any

  name        = "${local.name}-inside"
  network     = local.network
  source_tags = [local.name]
  target_tags = [local.name]
  allow {
    protocol = "all"
  }
}

resource "google_compute_firewall" "ssh" {
  for_each = local.any

  name          = "${local.name}-ssh"
  network       = local.network
  source_ranges = try(var.settings.ssh_from, ["0.0.0.0/0"])
  target_tags   = [local.name]
  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

# From outside, what a group's load balancers listen on.
resource "google_compute_firewall" "public" {
  for_each = { for group, ports in local.public : group => ports if length(ports) > 0 }

  name          = "${local.name}-${replace(each.key, "_", "-")}-public"
  network       = local.network
  source_ranges = ["0.0.0.0/0"]
  target_tags   = ["${local.name}-${replace(each.key, "_", "-")}"]
  dynamic "allow" {
    for_each = each.value
    content {
      protocol = allow.value.protocol
      ports    = [tostring(allow.value.port)]
    }
  }
}

# An address outlives its VM.
resource "google_compute_address" "address" {
  for_each = var.instances

  name         = local.names[each.key]
  address_type = "INTERNAL"
  subnetwork   = try(var.settings.subnetwork, "default")
  address      = each.value.static_address == "" ? null : each.value.static_address
}

# What clients know of a load balancer outlives its VM too.
resource "google_compute_address" "public" {
  for_each = { for key, instance in var.instances : key => instance if try(var.settings.public_ssh, false) || length(local.public[instance.group]) > 0 }

  name = "${local.names[each.key]}-public"
}

# A disk outlives its VM: it is a resource of its own.
resource "google_compute_disk" "disk" {
  for_each = var.disks

  name = "${local.name}-${replace(replace(each.key, "/", "-"), "_", "-")}-disk"
  zone = lookup(local.zones, try(var.instances[each.key].az, ""), local.zones[""])
  size = max(10, each.value.size_gb)
  type = "pd-balanced"

  lifecycle {
    ignore_changes = [zone] # it is where its data is
  }
}

resource "google_compute_instance" "vm" {
  for_each = var.instances

  name           = local.names[each.key]
  machine_type   = try(each.value.options.machine_type, var.settings.machine_type, "e2-small")
  zone           = lookup(local.zones, each.value.az, each.value.az)
  tags           = [local.name, "${local.name}-${replace(each.value.group, "_", "-")}"]
  desired_status = "RUNNING"

  boot_disk {
    initialize_params {
      image = local.images[each.key]
      size  = each.value.disk_gb == 0 ? 10 : each.value.disk_gb
    }
  }

  dynamic "attached_disk" {
    for_each = contains(keys(local.disks), each.key) ? [local.disks[each.key]] : []
    content {
      source      = google_compute_disk.disk[attached_disk.value].self_link
      device_name = "deploy"
    }
  }

  network_interface {
    subnetwork = try(var.settings.subnetwork, "default")
    network_ip = google_compute_address.address[each.key].address
    dynamic "access_config" {
      for_each = try([google_compute_address.public[each.key].address], [])
      content {
        nat_ip = access_config.value
      }
    }
  }

  metadata = merge(each.value.tags, {
    deployment = var.deployment.name, deployment_id = var.deployment.id, instance = trimsuffix(each.key, "+")
    user-data  = local.user_data[each.key]
  })

  lifecycle {
    ignore_changes = [boot_disk[0].initialize_params[0].labels]
    precondition {
      condition     = local.images[each.key] != "" && !startswith(local.images[each.key], "/")
      error_message = "Infrastructure \"gcp\" has no image for ${each.key}, or a file: import the stemcell (templates/gcp/README.md) and say image = \"its name\" in the vm block or the infrastructure block."
    }
  }
}
