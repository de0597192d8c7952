terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

provider "aws" {
  region = var.settings.region # credentials come from the environment or ~/.aws
}

locals {
  name   = "${var.deployment.name}-${substr(sha256(var.deployment.id), 0, 8)}"
  names  = { for key in keys(var.instances) : key => "${local.name}-${replace(replace(key, "/", "-"), "+", "b")}" }
  any    = length(var.instances) > 0 ? { all = true } : {}
  images = { for key, instance in var.instances : key => instance.image != "" ? instance.image : try(var.settings.image, "") }
  subnet = try(var.settings.subnets, {})
  tags   = { deployment = var.deployment.name, deployment_id = var.deployment.id }

  disks  = { for key in keys(var.instances) : key => trimsuffix(key, "+") if try(var.disks[trimsuffix(key, "+")].attached, false) }
  folder = "/var/lib/deploy-disk"
  # What clients from outside reach, by group and port.
  public = merge([for instance in values(var.instances) : {
    for p in instance.ports : "${instance.group} ${p.protocol} ${p.port}" => { group = instance.group, port = p.port, protocol = p.protocol } if p.public
  }]...)
  public_groups = toset([for p in values(local.public) : p.group])
  elastic       = { for key, instance in var.instances : key => instance if try(var.settings.public_ssh, false) || contains(local.public_groups, instance.group) }

  # What the first boot does, and what the manifest adds to it: on a conflict ours holds,
  # lists become one.
  own_data = { for key, instance in var.instances : key => join("\n", ["#cloud-config", jsonencode({
    hostname            = substr("${instance.group}-${instance.index}", 0, 63) # the agent sets its own
    fqdn                = "${instance.group}-${instance.index}.${var.deployment.name}.internal"
    ssh_authorized_keys = [var.ssh_public_key]
    write_files = contains(keys(local.disks), key) ? [
      { path = "/etc/deploy/disk", content = "DEVICE=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${replace(aws_ebs_volume.disk[local.disks[key]].id, "-", "")}\nFOLDER=${local.folder}\n" }
    ] : []
  })]) }
  user_data = { for key, instance in var.instances : key => instance.user_data == "" ? local.own_data[key] : join("\n", ["#cloud-config-archive", jsonencode([
    { content = local.own_data[key] },
    { content = instance.user_data, "X-Merge-Type" = "dict(no_replace,recurse_array)+list(append)+str()" },
  ])]) }
}

# The subnets are there; what they are in follows from them.
data "aws_subnet" "subnet" {
  for_each = length(var.instances) + length(var.disks) > 0 ? local.subnet : {}

  id = each.value
}

resource "aws_security_group" "vms" {
  for_each = local.any

  name        = local.name
  description = "VMs of the deployment ${var.deployment.name}"
  vpc_id      = values(data.aws_subnet.subnet)[0].vpc_id
  tags        = local.tags
}

# Among themselves VMs reach everything; apps have ports of their own.
resource "aws_vpc_security_group_ingress_rule" "inside" {
  for_each = local.any

  security_group_id            = aws_security_group.vms["all"].id
  referenced_security_group_id = aws_security_group.vms["all"].id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each = length(var.instances) > 0 ? toset(try(var.settings.ssh_from, ["0.0.0.0/0"])) : toset([])

  security_group_id = aws_security_group.vms["all"].id
  cidr_ipv4         = each.key
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_vpc_security_group_egress_rule" "all" {
  for_each = local.any

  security_group_id = aws_security_group.vms["all"].id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

# From outside, what a group's load balancers listen on.
resource "aws_security_group" "public" {
  for_each = local.public_groups

  name        = "${local.name}-${each.key}"
  description = "What clients reach of group ${each.key}"
  vpc_id      = values(data.aws_subnet.subnet)[0].vpc_id
  tags        = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "public" {
  for_each = local.public

  security_group_id = aws_security_group.public[each.value.group].id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = each.value.protocol
  from_port         = each.value.port
  to_port           = each.value.port
}

# An address outlives its VM: it is that of a network interface.
resource "aws_network_interface" "address" {
  for_each = var.instances

  subnet_id       = lookup(local.subnet, each.value.az, null)
  private_ips     = each.value.static_address == "" ? null : [each.value.static_address]
  security_groups = concat([aws_security_group.vms["all"].id], [for group, it in aws_security_group.public : it.id if group == each.value.group])
  tags            = merge(local.tags, { Name = local.names[each.key] })

  lifecycle {
    precondition {
      condition     = contains(keys(local.subnet), each.value.az)
      error_message = "Infrastructure \"aws\" has no subnet for the zone \"${each.value.az}\" of ${each.key}: add it to the setting subnets."
    }
  }
}

resource "aws_eip" "public" {
  for_each = local.elastic

  domain            = "vpc"
  network_interface = aws_network_interface.address[each.key].id
  tags              = merge(local.tags, { Name = local.names[each.key] })
}

# A disk outlives its VM: it is a volume of its own.
resource "aws_ebs_volume" "disk" {
  for_each = var.disks

  availability_zone = data.aws_subnet.subnet[try(var.instances[each.key].az, keys(local.subnet)[0])].availability_zone
  size              = each.value.size_gb
  type              = "gp3"
  tags              = merge(local.tags, { Name = "${local.name}-${replace(each.key, "/", "-")}" })

  lifecycle {
    ignore_changes = [availability_zone] # it is where its data is
  }
}

resource "aws_instance" "vm" {
  for_each = var.instances

  ami                         = local.images[each.key]
  instance_type               = try(each.value.options.instance_type, var.settings.instance_type, "t3.small")
  user_data_replace_on_change = false
  tags                        = merge(each.value.tags, local.tags, { Name = local.names[each.key], instance = trimsuffix(each.key, "+") })
  user_data                   = local.user_data[each.key]

  network_interface {
    device_index         = 0
    network_interface_id = aws_network_interface.address[each.key].id
  }

  root_block_device {
    volume_size = each.value.disk_gb == 0 ? 8 : each.value.disk_gb
    volume_type = "gp3"
  }

  metadata_options {
    http_tokens = "required" # an app that is made to fetch a page gets no credentials
  }

  lifecycle {
    ignore_changes = [user_data]
    precondition {
      condition     = startswith(local.images[each.key], "ami-")
      error_message = "Infrastructure \"aws\" has no AMI for ${each.key}: import the stemcell (templates/aws/README.md) and say image = \"ami-...\" in the vm block or the infrastructure block."
    }
  }
}

resource "aws_volume_attachment" "attachment" {
  for_each = local.disks

  device_name                    = "/dev/sdf"
  volume_id                      = aws_ebs_volume.disk[each.value].id
  instance_id                    = aws_instance.vm[each.key].id
  stop_instance_before_detaching = true
}
