description = "Gateway of the service redis: the cloud controller asks it for instances, and it asks the nodes"
bases       = ["component/gateway", "component/moves"]

property "port" { default = 9101 }
property "version" { default = "7.0" }
property "description" { default = "Redis key-value store" }

bus {
  publish   = ["RaaS.discover", "RaaS.check_orphan", "RaaS.*.*"]
  subscribe = ["RaaS.announce", "RaaS.node_handles", "RaaS.handles", "RaaS.update_service_handle", "RaaS.leave.*"]
}

process "redis_gateway" {
  command = ["${package.service_gateway.path}/service_gateway", "-c", "${path.config}/gateway.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}
