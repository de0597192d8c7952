deployment "shop" {}

secret "cloud" { type = "password" }

infrastructure "local" {
  token = secret.cloud.value
}
