#!/bin/sh
# Installs the Debian packages that building and testing need, where they are missing. Quick when nothing is.
set -eu

missing=""
need() { # need PROGRAM-OR-FILE PACKAGE
	case $1 in
	/*) [ -e "$1" ] || missing="$missing $2" ;;
	*) command -v "$1" >/dev/null 2>&1 || missing="$missing $2" ;;
	esac
}
need qemu-system-x86_64 qemu-system-x86
need gcc gcc
need make make
need strip binutils
need xz xz-utils
need gzip gzip
need zstd zstd
need setpriv util-linux
# Man pages are rendered to find mistakes.
need groff groff-base
# It looks at the units.
need systemd-analyze systemd
# The C library as an archive: the program that runs in dom0 and guests is linked statically.
need /usr/lib/x86_64-linux-gnu/libc.a libc6-dev
# Xen's public headers: the ABI tests compare our structures with them.
need /usr/include/xen/xen.h libxen-dev
# The keys that the downloaded packages are signed with (missing on Ubuntu).
need /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
# For `make deb`, `make rpm`, `make test-debian` and `make fuzz`.
case ${PACKAGES:-} in
deb | debian)
	need dpkg-buildpackage dpkg-dev
	need dh debhelper
	need lintian lintian
	;;
rpm) need rpmbuild rpm ;;
fuzz) need g++ g++ ;;
esac
# For the root file system of a Debian host.
if [ "${PACKAGES:-}" = debian ]; then
	need mmdebstrap mmdebstrap
	need mke2fs e2fsprogs
fi

if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "setup: this machine has no apt-get. Install what these Debian packages contain:$missing" >&2
		echo "setup: the full suite also needs apt-get and dpkg, to unpack Debian's packages without installing them." >&2
		exit 1
	fi
	as_root=""
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null 2>&1; then
			echo "setup: please run as root: apt-get install$missing" >&2
			exit 1
		fi
		as_root=sudo
	fi
	echo "setup: installing$missing"
	attempt=1
	# Mirrors fail now and then. (The list of packages is split on purpose.)
	# shellcheck disable=SC2086
	until $as_root apt-get -q update &&
		$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends $missing; do
		[ "$attempt" -lt 3 ] || exit 1
		attempt=$((attempt + 1))
		sleep 5
	done
fi

if ! command -v cargo >/dev/null 2>&1; then
	echo "setup: no cargo. Install Rust 1.95 or newer with rustup (https://rustup.rs), no extra target is needed." >&2
	exit 1
fi
