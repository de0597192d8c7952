description = "Gateway of the service rabbitmq: the cloud controller asks it for instances, and it asks the nodes"
bases       = ["component/gateway"]

property "port" { default = 9105 }
property "version" { default = "3.10" }
property "description" { default = "RabbitMQ message queue" }

bus {
  publish   = ["RMQaaS.discover", "RMQaaS.check_orphan", "RMQaaS.*.*"]
  subscribe = ["RMQaaS.announce", "RMQaaS.node_handles", "RMQaaS.handles", "RMQaaS.update_service_handle", "RMQaaS.leave.*"]
}

process "rabbitmq_gateway" {
  command = ["${package.service_gateway.path}/service_gateway", "-c", "${path.config}/gateway.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}
