# It may do on the bus what it likes, with the user that such jobs share.
consumes "bus" {}

process "needy" {
  command = ["needy", link.bus.property.user]
}
