unique "node_id" {
  value = "same"
}
