deployment "d" {}
infrastructure "local" {}

group "db" {}
group "web" {}

moved { # error: Impossible move
  from = "web"
  to   = "db"
}

moved { # error: Impossible move
  from = "old"
  to   = "nowhere"
}

moved {
  from = "database"
  to   = "db"
}

moved { # error: Impossible move
  from = "database"
  to   = "web"
}

moved { # error: Impossible move
  from = "data"
  to   = "db"
}

moved { # error: Missing required argument
  from = "x"
}
