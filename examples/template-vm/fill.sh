#!/bin/sh
# Puts the built programs (make build) into the image, as whoever set the first
# VM up has done.  usage: fill.sh [FOLDER_OF_THE_IMAGE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
image=${1:-$here/image}
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac
packages=$here/../../bin/packages/$(uname -s | tr '[:upper:]' '[:lower:]')_$arch
mkdir -p "$image/devbox/bin"
for program in router hello cloud_controller health_manager stager static_server dea warden; do
	tar -xzf "$packages/$program.tar.gz" -C "$image/devbox/bin" "./$program"
done
