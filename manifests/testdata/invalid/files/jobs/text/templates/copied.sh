echo "${1:-x}" %{http_code}
