description = "What operators want to find on every VM: a few programs, the company's CA, and a certificate to ask with"

property "ca" {
  type        = string
  required    = true
  description = "CA certificate, PEM"
}

property "certificate" {
  type        = string
  required    = true
  description = "Client certificate, PEM"
}

property "private_key" {
  type        = string
  required    = true
  sensitive   = true
  description = "Key of the client certificate, PEM"
}

# Packages of the VM's own package manager: what is missing is said before
# anything is touched.
package "curl" {
  system = "curl"
  apt    = ["curl"]
}

package "ps" {
  system = "ps"
  apt    = ["procps"]
}

template "ca.pem" {
  on_change = "none"
}

template "client.pem" {
  on_change = "none"
}

template "client.key" {
  mode      = "0600"
  on_change = "none"
}

# deploy's hooks run once a change; this one says on the VM what the programs are.
hook "check" {
  command = [package.curl.path, "--version"]
  timeout = "10s"
}
