# Exits 0 once nginx answers with this configuration. bash, because its /dev/tcp
# needs no further program on the VM.
want="${nonsensitive(sha256(jsonencode([instance.address, property.domains, property.routers, property.router_port, property.port, property.max_body_mb, property.answer_timeout_s, property.client_requests, property.host_requests, property.workers, property.access_log, property.trusted_fronts, property.addresses, property.tls_port, property.public_tls_port, property.certificate, property.key, property.https_only, property.hsts_s, property.sites, property.balancing, property.keepalive, property.gzip, property.maintenance, property.extra])))}"
# By the clock: the agent's own limit is 15 s, and a try takes longer on a busy VM.
while [ "$SECONDS" -lt 10 ]; do
  if exec 3<>"/dev/tcp/${instance.address}/${property.port}"; then
    printf 'GET /.deploy/generation HTTP/1.0\r\nHost: ${instance.address}\r\n\r\n' >&3
    have=
    while IFS= read -r -t 2 line <&3; do have=$line; done
    exec 3>&-
    [ "$have" = "$want" ] && exit 0
  fi 2>/dev/null
  sleep 0.1
done
echo "nginx at ${instance.address}:${property.port} answers with another configuration: its log says why it did not take this one" >&2
exit 1
