property "names" { type = list(string) }
template "t.yml" {}
process "p" {
  command = ["x", property.names]   # error: Wrong type
  user    = upper(["x"])            # error: Invalid function argument
  dir     = nothing()               # error: Call to unknown function
}
listen "x" { port = property.names } # error: Wrong type
mbus { files = ["a"] } # error: Missing servers
