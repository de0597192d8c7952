property "max_memory_mb" {
  type    = number
  default = 1024
}

process "dea" {
  command = ["dea", property.max_memory_mb]
}
