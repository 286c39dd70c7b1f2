#!/bin/sh
# Builds the stub's image twice, in folders with names of different lengths, and compares the two byte by byte.
set -eu

top=$(pwd)
[ -e "$top/tests/bench/reproducible.sh" ] || { echo "reproducible: run it from the repository's root (or use make)" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for copy in a another-one; do
	mkdir -p "$work/$copy"
	tar -c --exclude=./target --exclude=./build --exclude=./.git . | tar -x -C "$work/$copy"
	# What the caller's make says to its own children is not for this one.
	(cd "$work/$copy" && env -u MAKEFLAGS -u MAKELEVEL -u CARGO_TARGET_DIR make --no-print-directory --silent stub)
done
if cmp "$work/a/build/pcidom.elf" "$work/another-one/build/pcidom.elf"; then
	echo "reproducible: $(sha256sum <"$work/a/build/pcidom.elf" | cut -d ' ' -f 1)"
else
	echo "reproducible: the images differ" >&2
	exit 1
fi
