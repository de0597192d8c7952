deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

variable "instances" {
  default = 2

  validation {
    condition     = var.instances % 2 == 1
    error_message = "An odd number, so that a majority exists."
  }
}
