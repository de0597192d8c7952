#!/bin/sh
# Makes dist/: an archive of deploy, vmc and the programs for VMs for each
# platform, with all licences; their checksums; a bill of materials (CycloneDX).
# The same sources give the same archives. Run by `make dist` after the build.
# usage: PROGRAMS="PACKAGE..." dist.sh VERSION OS/ARCH...
set -eu
cd "$(dirname "$0")/.."
version=$1
shift

rm -rf dist
mkdir -p dist/licenses

# The licence texts of every module whose code is in a program.
for platform in "$@"; do
	# shellcheck disable=SC2086 # a list of words
	GOOS=${platform%/*} GOARCH=${platform#*/} CGO_ENABLED=0 go list -deps \
		-f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}' $PROGRAMS
done | sort -u >dist/modules
while read -r module folder; do
	found=
	for text in "$folder"/[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]* "$folder"/COPYING* "$folder"/NOTICE* "$folder"/PATENTS*; do
		[ -f "$text" ] || continue
		mkdir -p "dist/licenses/$module"
		cp "$text" "dist/licenses/$module/"
		found=yes
	done
	[ -n "$found" ] || {
		echo "dist: $module has no licence text" >&2
		exit 1
	}
done <dist/modules
mkdir -p dist/licenses/go
cp "$(go env GOROOT)/LICENSE" dist/licenses/go/
chmod -R u+w dist/licenses

for platform in "$@"; do
	os=${platform%/*} arch=${platform#*/}
	name=deploy-$version-$os-$arch
	mkdir -p "dist/$name/packages"
	for program in deploy vmc; do
		cp "bin/dist/${os}_$arch/$program" "dist/$name/"
	done
	for vm in "$@"; do # a machine of one platform can deploy to VMs of the other
		cp -r "bin/packages/$(echo "$vm" | tr / _)" "dist/$name/packages/"
	done
	cp -r LICENSE NOTICE README.md CHANGELOG.md ARCHITECTURE.md SECURITY.md docs dist/licenses "dist/$name/"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime='2000-01-01 00:00Z' --mode=u+w,go-w \
		-C dist -c "$name" | gzip -9n >"dist/$name.tar.gz"
	rm -r "dist/$name"
done
rm -r dist/licenses dist/modules

go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0 mod \
	-json -licenses -std -noserial -notimestamp -output "dist/deploy-$version.cdx.json" .
cd dist
sha256sum ./*.tar.gz ./*.json | sed 's| \./| |' >SHA256SUMS
cat SHA256SUMS
