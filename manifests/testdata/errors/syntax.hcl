deployment "d" {}
group "a" {
  instances = # error: Invalid expression
}
