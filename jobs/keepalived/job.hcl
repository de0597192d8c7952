description = "Virtual addresses that move to another load balancer when theirs fails: keepalived beside nginx"

property "addresses" {
  type        = list(string)
  required    = true
  description = "Virtual addresses with prefix length, \"192.0.2.10/24\"; one instance of the group has them at a time"

  validation {
    condition     = length(property.addresses) > 0 && alltrue([for a in property.addresses : can(regex("^[0-9a-fA-F.:]+/[0-9]+$", a))])
    error_message = "At least one address such as \"192.0.2.10/24\"."
  }
}

property "interface" {
  type        = string
  required    = true
  description = "Network interface of the VMs for the addresses, such as \"eth0\""

  validation {
    condition     = can(regex("^[A-Za-z0-9_.:-]{1,15}$", property.interface))
    error_message = "The name of an interface such as \"eth0\"."
  }
}

property "router_id" {
  type        = number
  default     = 51
  description = "Number of the virtual router, 1 to 255; each group in a network needs its own"

  validation {
    condition     = property.router_id >= 1 && property.router_id <= 255
    error_message = "Between 1 and 255."
  }
}

property "interval_ms" {
  type        = number
  default     = 500
  description = "Milliseconds between two advertisements; the addresses move after three and a half missed ones. The same on all instances"

  validation {
    condition     = property.interval_ms >= 10 && property.interval_ms <= 40000 && property.interval_ms % 10 == 0
    error_message = "Between 10 and 40000, in tens."
  }
}

property "check_port" {
  type        = number
  default     = 8080
  description = "Port at which the load balancer on the same VM is checked; an instance whose load balancer is unhealthy gives the addresses up"
}

package "keepalived" {
  system = "keepalived"
  apt    = ["keepalived"]
}

package "lb_check" {
  program = "lb_check"
}

template "keepalived.conf" {
  on_change = "reload"
}

# Before anything changes keepalived reads the file. It also lets the load balancer
# listen on an address that another instance has: so name this job before nginx.
hook "check" {
  command = ["/bin/sh", "-c", "\"$1\" -t -f \"$DEPLOY_STAGED/keepalived.conf\" && echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind", "check", package.keepalived.path]
}

process "keepalived" {
  command = [package.keepalived.path, "--dont-fork", "--log-console", "--vrrp", "--use-file=${path.config}/keepalived.conf", "--pid=${path.run}/keepalived.pid", "--vrrp_pid=${path.run}/vrrp.pid"]

  reload { signal = "HUP" }
}
