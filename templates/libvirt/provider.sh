#!/bin/sh
# Builds the public provider of this template from its Go module, and puts it where
# deploy looks for providers before it asks a registry. Needs Go; takes a minute, once.
# usage: templates/libvirt/provider.sh [MIRROR]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
module=github.com/dmacvicar/terraform-provider-libvirt
version=0.7.6
mirror=${1:-${DEPLOY_PROVIDER_MIRROR:-${XDG_CACHE_HOME:-$HOME/.cache}/deploy/providers}}
folder=$mirror/dmacvicar/libvirt/$version/$(go env GOOS)_$(go env GOARCH)
program=$folder/terraform-provider-libvirt_v$version
if [ -x "$program" ]; then
	echo "$program"
	exit 0
fi
mkdir -p "$folder"
work=$(mktemp -d "$folder/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
# The names hide these files from the go command, which would take this folder for a
# module of its own.
cp "$here/provider.mod" "$work/go.mod"
cp "$here/provider.sum" "$work/go.sum"
(cd "$work" && CGO_ENABLED=0 GOFLAGS='' GOWORK=off go build -trimpath -buildvcs=false -ldflags '-s -w' -o provider $module)
mv "$work/provider" "$program"
echo "$program"
