# Out: the contract's output, see ../CONTRACT.md.

output "instances" {
  value = {
    for key, vm in libvirt_domain.vm : key => {
      id           = vm.id
      address      = localvm_address.address[key].address
      ssh_host     = localvm_address.address[key].address
      ssh_port     = 22
      ssh_user     = "root"
      ssh_host_key = "" # made at the first boot
      agent_dir    = "/var/lib/deploy"
      os           = "linux"
      arch         = "amd64"
      disk         = contains(keys(local.disks), key) ? "${local.folder}/data" : ""
      running      = vm.running
      beside       = !contains(keys(local.disks), key) # two VMs cannot have one disk
      system       = true                              # names of hosts are the agent's to set
      boot_seconds = local.boot_seconds
      console      = "${local.console}/${local.names[key]}-console.log"
    }
  }
}
