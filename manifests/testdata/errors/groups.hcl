deployment "D-1" {} # error: Invalid name
infrastructure "local" {}
vm "small" {}
vm "s mall" {} # error: Invalid name

group "Router" {} # error: Invalid name
group "1st" {}    # error: Invalid name
group "a.b" {}    # error: Invalid name

group "a" {
  instances       = -1           # error: Number out of range
  azs             = ["z1", "z1"] # error: Invalid zones
  prevent_destroy = "maybe"      # error: Wrong type
  replicas        = 3            # error: Unsupported argument
}

group "b" {
  instances = 1.5 # error: Number out of range
  instance "one" {} # error: Invalid index
  instance "-1" {}  # error: Invalid index
  instance "5" {}   # warning: Exception without an instance
  tasks {} # error: Unsupported block type
}

group "c" {
  instances = "three" # error: Wrong type
}

group {} # error: Missing name for group
