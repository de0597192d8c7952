description = "Gateway of the service postgresql: the cloud controller asks it for instances, and it asks the nodes"
bases       = ["component/gateway", "component/moves"]

property "port" { default = 9102 }
property "version" { default = "15" }
property "description" { default = "PostgreSQL database" }

bus {
  publish   = ["AuaaS.discover", "AuaaS.check_orphan", "AuaaS.*.*"]
  subscribe = ["AuaaS.announce", "AuaaS.node_handles", "AuaaS.handles", "AuaaS.update_service_handle", "AuaaS.leave.*"]
}

process "postgresql_gateway" {
  command = ["${package.service_gateway.path}/service_gateway", "-c", "${path.config}/gateway.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}
