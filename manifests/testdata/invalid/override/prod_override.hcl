group "ruoter" {
  instances = 3
}

group "router" {
  instances = -3
}
