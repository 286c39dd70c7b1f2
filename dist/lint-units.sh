#!/bin/sh
# Has systemd look at the units: whether it understands them, and how much each still may (0 nothing, 100 everything).
# What they start is left out of it: that is not installed here.
set -eu
here=$(dirname "$0")
copies=$(mktemp -d)
trap 'rm -rf "$copies"' EXIT

for unit in "$here"/*.service "$here"/*.path; do
	sed 's,^ExecStart=[^ ]*,ExecStart=/bin/true,' "$unit" >"$copies/$(basename "$unit")"
done
said=$(systemd-analyze verify --man=no "$copies"/*.service "$copies"/*.path 2>&1) || {
	echo "$said" >&2
	exit 1
}
# What it cannot understand it only mentions.
if said=$(echo "$said" | grep -F "$copies"); then
	echo "$said" >&2
	exit 1
fi

may() { # may UNIT AT-MOST
	systemd-analyze security --offline=true --no-pager --threshold="$2" "$copies/$1" >"$copies/said" 2>&1 || {
		cat "$copies/said" >&2
		echo "lint-units: $1 may more than $2 of 100" >&2
		exit 1
	}
}
may pcidom.service 20
may pcidom-backend.service 70
may pcidom-reclaim.service 70
