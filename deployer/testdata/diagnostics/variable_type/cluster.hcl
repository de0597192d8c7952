deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

variable "instances" {
  type    = number
  default = "many"
}
