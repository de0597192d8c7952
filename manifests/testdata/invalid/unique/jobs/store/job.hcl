property "plan" {
  type    = string
  default = "free"
}

unique "node_id" {
  value = "store_${property.plan}_${instance.index}"
}
