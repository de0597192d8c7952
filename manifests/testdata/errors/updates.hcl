deployment "d" {}
infrastructure "local" {}

update {
  canaries         = -1      # error: Number out of range
  max_in_flight    = "200%"  # error: Invalid max_in_flight
  watch_time       = "soon"  # error: Invalid watch_time
  min_healthy_time = "3"     # error: Not a length of time
  on_failure       = "panic" # error: Unknown on_failure
}

pki { # error: Certificates would outlive their CA
  certificate_life = "48h"
  ca_life          = "24h"
  renew_at         = "8h"   # error: Unsupported argument
}

group "a" {
  update {
    max_in_flight = 0 # error: Invalid max_in_flight
    watch_time    = "60s-10s" # error: Invalid watch_time
  }
}

group "d" {
  instances = 2
  update {
    min_available = 2 # error: Group can never be updated
  }
}

group "e" {
  update { min_available = "101%" } # error: Invalid min_available
}

group "b" {
  update { max_in_flight = "many" } # error: Invalid max_in_flight
}

group "c" {
  update { # error: Update can never succeed
    watch_time       = "5s"
    min_healthy_time = "1m"
    parallel         = 3 # error: Unsupported argument
  }
}
