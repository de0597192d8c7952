deployment "shop" {
  domain = "shop.localhost"
}

infrastructure "local" {}

locals {
  name = join(["a", "b"])
}
