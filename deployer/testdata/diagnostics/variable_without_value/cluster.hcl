deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

variable "region" {
  type        = string
  description = "Where the VMs are"
}
