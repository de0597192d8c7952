description = "Gateway of the service memcached: the cloud controller asks it for instances, and it asks the nodes"
bases       = ["component/gateway"]

property "port" { default = 9104 }
property "version" { default = "1.6" }
property "description" { default = "memcached, a cache in memory" }

bus {
  publish   = ["MemcachedaaS.discover", "MemcachedaaS.check_orphan", "MemcachedaaS.*.*"]
  subscribe = ["MemcachedaaS.announce", "MemcachedaaS.node_handles", "MemcachedaaS.handles", "MemcachedaaS.update_service_handle", "MemcachedaaS.leave.*"]
}

process "memcached_gateway" {
  command = ["${package.service_gateway.path}/service_gateway", "-c", "${path.config}/gateway.yml"]

  # Where the controllers are is read at the start.
  restart_on = [link.cloud_controller.instances[*].address, link.cloud_controller.property.port, link.cloud_controller.property.external_uri]

  component  = true # log_level, the bus with its CA, the control socket
  stop_grace = "40s"
}
