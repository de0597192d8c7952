deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

variable "instances" {
  default = 2
}

group "web" {
  instances = var.instnaces
}
