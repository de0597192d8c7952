description = "Gateway of the service mysql: the cloud controller asks it for instances, and it asks the nodes"
bases       = ["component/gateway", "component/moves"]

property "port" { default = 9103 }
property "version" { default = "10.11" }
property "description" { default = "MySQL database, by MariaDB" }

bus {
  publish   = ["MyaaS.discover", "MyaaS.check_orphan", "MyaaS.*.*"]
  subscribe = ["MyaaS.announce", "MyaaS.node_handles", "MyaaS.handles", "MyaaS.update_service_handle", "MyaaS.leave.*"]
}

process "mysql_gateway" {
  command = ["${package.service_gateway.path}/service_gateway", "-c", "${path.config}/gateway.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}
