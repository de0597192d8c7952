# Out: the contract's output, see ../CONTRACT.md.

output "instances" {
  value = {
    for key, vm in openstack_compute_instance_v2.vm : key => {
      id           = vm.id
      address      = openstack_networking_port_v2.address[key].all_fixed_ips[0]
      ssh_host     = try(var.settings.public_ssh, false) ? openstack_networking_floatingip_v2.public[key].address : openstack_networking_port_v2.address[key].all_fixed_ips[0]
      ssh_port     = 22
      ssh_user     = "root"
      ssh_host_key = "" # made at the first boot
      agent_dir    = "/var/lib/deploy"
      os           = "linux"
      arch         = "amd64"
      disk         = contains(keys(local.disks), key) ? "${local.folder}/data" : ""
      running      = vm.power_state == "active"
      beside       = !contains(keys(local.disks), key) # two VMs cannot have one disk
      system       = true                              # names of hosts are the agent's to set
      boot_seconds = try(var.settings.boot_seconds, 300)
    }
  }
}
