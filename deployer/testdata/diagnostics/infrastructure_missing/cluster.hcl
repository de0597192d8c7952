deployment "shop" {}
