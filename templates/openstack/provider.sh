#!/bin/sh
# Builds the provider of this template, see ../provider.sh.
# usage: templates/openstack/provider.sh [MIRROR]
exec "$(dirname "$0")/../provider.sh" openstack github.com/terraform-provider-openstack/terraform-provider-openstack/v3 terraform-provider-openstack/openstack 3.4.0 "$@"
