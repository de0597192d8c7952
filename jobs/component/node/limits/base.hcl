# What nodes of SQL databases have: the longest statement and transaction.

property "max_long_query_s" {
  type        = number
  default     = 60
  description = "Longest statement, seconds; a longer one is ended and its app gets an error"
  on_change   = "restart"

  validation {
    condition     = property.max_long_query_s > 0
    error_message = "Above 0."
  }
}

property "max_long_tx_s" {
  type        = number
  default     = 300
  description = "Longest transaction, seconds; the session of a longer one is ended"
  on_change   = "restart"

  validation {
    condition     = property.max_long_tx_s > 0
    error_message = "Above 0."
  }
}
