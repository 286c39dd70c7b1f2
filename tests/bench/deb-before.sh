#!/bin/sh
# Makes a Debian package to upgrade from: this tree as the release 0.0.9, whose parts do not say their contract, as none did at first. There is no
# older release that could be had. build/deb-before/pcidom_0.0.9-1_amd64.deb; the copy is built in build/before, and quickly the next time.
set -eu
cd "$(dirname "$0")/../.."
tree=$PWD
copy=$tree/build/before

mkdir -p "$copy"
# With their times, by which cargo knows what has changed. Files that are gone would only be unused.
git ls-files --cached --others --exclude-standard -z | xargs -0 tar --create --no-recursion --ignore-failed-read 2>/dev/null | tar --extract --directory "$copy"

replace() { # replace FILE EXPRESSION: must change something; keeps the time where the file is as it was made the last time
	sed "$2" "$copy/$1" >"$copy/$1.new"
	! cmp --silent "$copy/$1" "$copy/$1.new" || { echo "deb-before: nothing to replace in $1" >&2; exit 1; }
	touch --reference="$copy/$1" "$copy/$1.new"
	mv "$copy/$1.new" "$copy/$1"
}
replace Cargo.toml 's/^version = ".*"$/version = "0.0.9"/'
replace drivers/pcidom-abi/src/version.rs 's/^\(pub const ANNOUNCEMENT: &str = \).*$/\1env!("CARGO_PKG_VERSION");/'
cd "$copy"
cargo update --quiet --offline --workspace
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tree/target}/before make --no-print-directory --silent stub tool man >build.log 2>&1 || {
	cat build.log >&2
	exit 1
}
OUT=build/deb dist/deb.sh >/dev/null
rm -rf "$tree/build/deb-before"
cp -R build/deb "$tree/build/deb-before"
echo "deb-before: $(cd "$tree" && ls build/deb-before/*.deb)"
