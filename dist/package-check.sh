#!/bin/sh
# Looks at the packages that `make deb` and `make rpm` made: lintian's opinion, what they contain, and that Debian's can be installed, upgraded
# and purged without leaving anything (in a folder of its own, without what it depends on).
set -eu
cd "$(dirname "$0")/.."
deb=$(ls build/deb/pcidom_*_amd64.deb)
rpm=$(ls build/rpm/pcidom-*.x86_64.rpm)

fail() {
	echo "package-check: $*" >&2
	exit 1
}

# The builder may have any address, and there is no request for this package at Debian that its first changelog could close.
lintian --fail-on error,warning --suppress-tags bogus-mail-host,mail-address-loops-or-bounces,initial-upload-closes-no-bugs "$deb" ||
	fail "lintian has objections"

in_deb=$(dpkg-deb --contents "$deb" | awk '$1 !~ /^d/ { sub(/^\./, "", $6); sub(/\.gz$/, "", $6); print $6 }')
in_rpm=$(rpm --query --package --list "$rpm" | sed 's/\.gz$//')
for file in \
	/usr/sbin/pcidom /usr/lib/xen/boot/pcidom.elf /usr/lib/modules-load.d/pcidom.conf /usr/lib/udev/rules.d/60-pcidom.rules /etc/xen/pcidom.cfg /etc/pcidom/pcidom.conf \
	/usr/share/man/man8/pcidom.8 /usr/share/man/man5/pcidom.cfg.5 /usr/share/bash-completion/completions/pcidom \
	/usr/share/zsh/site-functions/_pcidom /usr/share/fish/vendor_completions.d/pcidom.fish /usr/share/doc/pcidom/schema/status.json; do
	echo "$in_deb" | grep -qx "$file" || fail "the Debian package lacks $file"
	echo "$in_rpm" | grep -qx "$file" || fail "the RPM package lacks $file"
done
for unit in pcidom.service pcidom-backend.service pcidom-guests.service pcidom-reclaim.path pcidom-reclaim.service; do
	echo "$in_deb" | grep -Eqx "(/usr)?/lib/systemd/system/$unit" || fail "the Debian package lacks $unit"
	echo "$in_rpm" | grep -qx "/usr/lib/systemd/system/$unit" || fail "the RPM package lacks $unit"
done
echo "$in_deb" | grep -qx /usr/share/doc/pcidom/copyright || fail "the Debian package lacks its copyright"
echo "$in_rpm" | grep -qx /usr/share/licenses/pcidom/LICENSE-MIT || fail "the RPM package lacks its licence"

control=$(mktemp -d)
trap 'rm -rf "$control"' EXIT
dpkg-deb --control "$deb" "$control"
printf '/etc/pcidom/pcidom.conf\n/etc/xen/pcidom.cfg\n' | diff - "$control/conffiles" || fail "other conffiles than these two"
rpm --query --package --configfiles "$rpm" | sort | diff "$control/conffiles" - || fail "the RPM package has other settings than Debian's"

# The life of it: installed, its settings changed, installed again, removed, purged.
root=$PWD/build/deb/root
rm -rf "$root"
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/run"
: >"$root/var/lib/dpkg/status"
# The scripts of it run on this machine, with the root told to them: what they call must not touch the machine itself.
dpkg_here() {
	dpkg --root="$root" --force-depends --force-confold --force-not-root --force-script-chrootless --log=/dev/null "$@" >"$root.log" 2>&1 || {
		cat "$root.log" >&2
		fail "dpkg $*"
	}
}
dpkg_here --install "$deb"
"$root/usr/sbin/pcidom" --version | grep -q '^pcidom [0-9]' || fail "the command of the package does not say its version"
echo "audit = all" >"$root/etc/pcidom/pcidom.conf"
dpkg_here --install "$deb"
grep -qx "audit = all" "$root/etc/pcidom/pcidom.conf" || fail "an upgrade loses settings"
dpkg_here --remove pcidom
grep -qx "audit = all" "$root/etc/pcidom/pcidom.conf" || fail "a removal loses settings"
dpkg_here --purge pcidom
left=$(find "$root" -not -path "$root/var/lib/dpkg*" \( -type f -o -type l -o -path "*pcidom*" \) | sed "s,^$root,,")
left=$(echo "$left" | grep -v '^$' || true)
[ -z "$left" ] || fail "purge leaves: $left"
rm -rf "$root" "$root.log"
echo "package-check: both packages are in order"
