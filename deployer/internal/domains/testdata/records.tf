resource "dns_a_record_set" "www_shop_co_uk" {
  zone      = "shop.co.uk."
  name      = "www"
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "www_shop_co_uk" {
  zone      = "shop.co.uk."
  name      = "www"
  addresses = ["2001:db8::1"]
  ttl       = 300
}

resource "dns_a_record_set" "all_shop_co_uk" {
  zone      = "shop.co.uk."
  name      = "*"
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "all_shop_co_uk" {
  zone      = "shop.co.uk."
  name      = "*"
  addresses = ["2001:db8::1"]
  ttl       = 300
}

resource "dns_a_record_set" "shop_co_uk" {
  zone      = "shop.co.uk."
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "shop_co_uk" {
  zone      = "shop.co.uk."
  addresses = ["2001:db8::1"]
  ttl       = 300
}

resource "dns_a_record_set" "intranet" {
  zone      = "intranet."
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "intranet" {
  zone      = "intranet."
  addresses = ["2001:db8::1"]
  ttl       = 300
}

resource "dns_a_record_set" "_1_a_b_example" {
  zone      = "a-b.example."
  name      = "1"
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "_1_a_b_example" {
  zone      = "a-b.example."
  name      = "1"
  addresses = ["2001:db8::1"]
  ttl       = 300
}

resource "dns_a_record_set" "a_b_c_example" {
  zone      = "b-c.example."
  name      = "a"
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "a_b_c_example" {
  zone      = "b-c.example."
  name      = "a"
  addresses = ["2001:db8::1"]
  ttl       = 300
}

resource "dns_a_record_set" "a_b_c_example_2" {
  zone      = "c.example."
  name      = "a-b"
  addresses = ["192.0.2.1", "192.0.2.2"]
  ttl       = 300
}

resource "dns_aaaa_record_set" "a_b_c_example_2" {
  zone      = "c.example."
  name      = "a-b"
  addresses = ["2001:db8::1"]
  ttl       = 300
}
