#!/bin/sh
# Brings what `make install PREFIX=/usr DESTDIR=ROOT` put below ROOT (the first argument) where a package has it: settings in /etc, which
# the package manager keeps as the admin changed them, and units in UNITS (the second argument), or nowhere where the packager's own
# tools put them.
set -eu
root=$1
units=${2:-}
doc=$root/usr/share/doc/pcidom

install -D -m 644 "$doc/examples/pcidom.cfg" "$root/etc/xen/pcidom.cfg"
install -D -m 644 "$doc/examples/pcidom.conf" "$root/etc/pcidom/pcidom.conf"
rm "$doc/examples/pcidom.cfg" "$doc/examples/pcidom.conf"
install -D -m 644 "$doc/examples/modules-load.conf" "$root/usr/lib/modules-load.d/pcidom.conf"
rm "$doc/examples/modules-load.conf"
if [ -n "$units" ]; then
	install -d "$root/$units"
	[ "$root/$units" = "$root/usr/lib/systemd/system" ] || mv "$root"/usr/lib/systemd/system/pcidom* "$root/$units"
else
	rm -r "$root/usr/lib/systemd"
fi
