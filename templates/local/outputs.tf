# Out: the contract's output, see ../CONTRACT.md.

output "instances" {
  value = {
    for key, vm in localvm_machine.vm : key => {
      id           = vm.id
      address      = vm.address
      ssh_host     = vm.address
      ssh_port     = vm.ssh_port
      ssh_user     = vm.ssh_user
      ssh_host_key = vm.ssh_host_key
      agent_dir    = vm.agent_dir
      image_dir    = vm.image_dir
      os           = vm.os
      arch         = vm.arch
      disk         = vm.disk
      running      = vm.running
      beside       = true
    }
  }
}
