# Out: the contract's output, see ../CONTRACT.md.

output "instances" {
  value = {
    for id, m in local.chosen : id => {
      id                   = local.ids[id]
      address              = m.address
      ssh_host             = m.ssh_host
      ssh_port             = m.ssh_port
      ssh_user             = m.user
      ssh_host_key         = m.host_key
      ssh_private_key_file = m.private_key
      agent_dir            = m.agent_dir
      os                   = m.os
      arch                 = m.arch
      disk                 = try(var.disks[id].attached, false) ? m.disk : ""
      running              = true # an agent that is silent is started over SSH, or the error says why not
      keep                 = true
    }
  }
  depends_on = [terraform_data.machine]
}
