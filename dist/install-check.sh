#!/bin/sh
# Looks at what `make install` put below PREFIX (the only argument): everything there, and in a state to be used.
set -eu
prefix=$1

fail() {
	echo "install-check: $*" >&2
	exit 1
}

for file in \
	sbin/pcidom lib/xen/boot/pcidom.elf lib/systemd/system/pcidom.service \
	lib/systemd/system/pcidom-backend.service lib/systemd/system/pcidom-guests.service \
	lib/udev/rules.d/60-pcidom.rules \
	lib/systemd/system/pcidom-reclaim.path lib/systemd/system/pcidom-reclaim.service \
	share/man/man8/pcidom.8 share/man/man5/pcidom.cfg.5 \
	share/bash-completion/completions/pcidom share/zsh/site-functions/_pcidom share/fish/vendor_completions.d/pcidom.fish \
	share/doc/pcidom/README.md share/doc/pcidom/schema/status.json \
	share/doc/pcidom/examples/pcidom.cfg share/doc/pcidom/examples/guest.cfg; do
	[ -s "$prefix/$file" ] || fail "$file is missing or empty"
done
"$prefix/sbin/pcidom" --version | grep -q '^pcidom [0-9]' || fail "the command does not say its version"
# It must run from where the units and the example look for it.
for line in "pcidom.service:pcidom serve --reclaim=trigger" "pcidom-reclaim.service:pcidom reclaim" \
	"pcidom-backend.service:pcidom backend" "pcidom-guests.service:pcidom autostart"; do
	unit=${line%%:*}
	grep -q "^ExecStart=/usr/sbin/${line#*:}\$" "$prefix/lib/systemd/system/$unit" || fail "$unit starts something else"
done
grep -q 'RUN+="/usr/sbin/pcidom repair ' "$prefix/lib/udev/rules.d/60-pcidom.rules" || fail "udev runs something else"
grep -q '"/usr/lib/xen/boot/pcidom.elf"' "$prefix/share/doc/pcidom/examples/pcidom.cfg" || fail "the example boots something else"
bash -n "$prefix/share/bash-completion/completions/pcidom" || fail "bash does not understand its completions"
# What bash would offer behind `pcidom a`.
offered=$(bash -c '. "$1"; COMP_WORDS=(pcidom a); COMP_CWORD=1; _pcidom pcidom a pcidom; echo "${COMPREPLY[*]}"' \
	bash "$prefix/share/bash-completion/completions/pcidom")
[ "$offered" = "attach assignable autostart" ] || fail "bash offers \"$offered\" behind \"pcidom a\""
if command -v man >/dev/null 2>&1; then
	for page in "$prefix"/share/man/man?/*; do
		warnings=$(MANWIDTH=100 man --warnings -E UTF-8 -l "$page" 2>&1 >/dev/null) || fail "man cannot show $page"
		[ -z "$warnings" ] || fail "man says: $warnings"
	done
fi
echo "install-check: everything is in its place"
