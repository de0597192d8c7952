# Out: the contract's output, see ../CONTRACT.md.

output "instances" {
  value = {
    for key, vm in google_compute_instance.vm : key => {
      id           = vm.instance_id
      address      = google_compute_address.address[key].address
      ssh_host     = try(var.settings.public_ssh, false) ? google_compute_address.public[key].address : google_compute_address.address[key].address
      ssh_port     = 22
      ssh_user     = "root"
      ssh_host_key = "" # made at the first boot
      agent_dir    = "/var/lib/deploy"
      os           = "linux"
      arch         = "amd64"
      disk         = contains(keys(local.disks), key) ? "${local.folder}/data" : ""
      running      = vm.current_status == "RUNNING"
      beside       = !contains(keys(local.disks), key) # two VMs cannot have one disk
      system       = true                              # names of hosts are the agent's to set
      boot_seconds = try(var.settings.boot_seconds, 300)
    }
  }
}
