#!/bin/sh
# Builds the public provider of a template from its Go module, and puts it where
# deploy looks for providers before it asks a registry. Needs Go; takes minutes, once.
# Called by provider.sh of the templates that have one.
# usage: templates/provider.sh TEMPLATE MODULE SOURCE VERSION [MIRROR]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
template=$1 module=$2 source=$3 version=$4
mirror=${5:-${DEPLOY_PROVIDER_MIRROR:-${XDG_CACHE_HOME:-$HOME/.cache}/deploy/providers}}
folder=$mirror/$source/$version/$(go env GOOS)_$(go env GOARCH)
program=$folder/terraform-provider-${source#*/}_v$version
if [ -x "$program" ]; then
	echo "$program"
	exit 0
fi
mkdir -p "$folder"
work=$(mktemp -d "$folder/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
# The names hide these files from the go command, which would take this folder for a
# module of its own.
cp "$here/$template/provider.mod" "$work/go.mod"
cp "$here/$template/provider.sum" "$work/go.sum"
(cd "$work" && CGO_ENABLED=0 GOFLAGS='' GOWORK=off go build -trimpath -buildvcs=false -ldflags '-s -w' -o provider "$module")
mv "$work/provider" "$program"
echo "$program"
