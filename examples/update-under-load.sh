#!/bin/sh
# Usage: update-under-load.sh URL COMMAND...
# Runs a command that updates an app while four clients ask for its page all the
# time, and prints how many of their requests were lost: it fails if one was.
set -eu
url=$1; shift
work=$(mktemp -d)
client() {
	while [ ! -e "$work/end" ]; do
		code=$(curl -s -o /dev/null -m 10 -w '%{http_code}' "$url") || true
		echo "$code" >>"$work/$1"
	done
}
for n in 1 2 3 4; do client $n & done
trap 'touch "$work/end"; wait; rm -rf "$work"' EXIT
result=0
"$@" || result=$?
touch "$work/end"; wait
made=$(cat "$work"/[0-9] | wc -l)
lost=$(cat "$work"/[0-9] | grep -cv '^200$' || true)
echo "Updated under load: $made requests, $lost lost."
[ "$result" -eq 0 ] && [ "$made" -gt 0 ] && [ "$lost" -eq 0 ]
