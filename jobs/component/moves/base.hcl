# What gateways have of services whose instances move to other nodes.

hook "errand" {
  name    = "migrate"
  command = ["${package.service_gateway.path}/service_gateway", "migrate", "-c", "${path.config}/gateway.yml"]
  timeout = "1h"
}
