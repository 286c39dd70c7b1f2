#!/bin/sh
# Makes an RPM package of what `make` built: build/rpm/pcidom-VERSION-1.x86_64.rpm (`make rpm`).
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
work=$PWD/build/rpm
rm -rf "$work"
mkdir -p "$work"
rpmbuild -bb --quiet --define "_topdir $work/top" --define "_rpmdir $work" --define "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
	--define "version_ $version" --define "tree $PWD" --define "_build_id_links none" dist/rpm/pcidom.spec >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
echo "rpm: build/rpm/pcidom-$version-1.x86_64.rpm"
