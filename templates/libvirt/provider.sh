#!/bin/sh
# Builds the provider of this template, see ../provider.sh.
# usage: templates/libvirt/provider.sh [MIRROR]
exec "$(dirname "$0")/../provider.sh" libvirt github.com/dmacvicar/terraform-provider-libvirt dmacvicar/libvirt 0.7.6 "$@"
