# Out: the contract's output, see ../CONTRACT.md.

output "instances" {
  value = {
    for key, vm in aws_instance.vm : key => {
      id           = vm.id
      address      = aws_network_interface.address[key].private_ip
      ssh_host     = try(var.settings.public_ssh, false) ? aws_eip.public[key].public_ip : aws_network_interface.address[key].private_ip
      ssh_port     = 22
      ssh_user     = "root"
      ssh_host_key = "" # made at the first boot
      agent_dir    = "/var/lib/deploy"
      os           = "linux"
      arch         = "amd64"
      disk         = contains(keys(local.disks), key) ? "${local.folder}/data" : ""
      running      = vm.instance_state == "running"
      beside       = !contains(keys(local.disks), key) # two VMs cannot have one disk
      system       = true                              # names of hosts are the agent's to set
      boot_seconds = try(var.settings.boot_seconds, 300)
    }
  }
}
