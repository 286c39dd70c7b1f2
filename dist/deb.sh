#!/bin/sh
# Makes a Debian package of what `make` built: build/deb/pcidom_VERSION-1_amd64.deb (`make deb`), or of another REVISION in the folder OUT.
# The maintainer in it is the builder: DEBFULLNAME and DEBEMAIL, as for all of Debian's tools, or else the last commit's author.
set -eu
cd "$(dirname "$0")/.."
tree=$PWD
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[ -n "$version" ] || { echo "deb: no version in Cargo.toml" >&2; exit 1; }

commit() { # commit FORMAT: of the last commit, where this is a checkout
	git log -1 --format="$1" 2>/dev/null || true
}
name=${DEBFULLNAME:-$(commit %an)}
email=${DEBEMAIL:-$(commit %ae)}
maintainer="${name:-root} <${email:-root@localhost}>"
# Of one commit the same package comes out.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(commit %ct)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(date +%s)}
export SOURCE_DATE_EPOCH DEB_BUILD_OPTIONS=noautodbgsym TREE="$tree"

revision=${REVISION:-1}
out=${OUT:-build/deb}
work=$out/pcidom
rm -rf "$out"
mkdir -p "$work"
cp -R dist/debian "$work/debian"
mkdir "$work/dist"
cp dist/place.sh "$work/dist"
cp dist/*.service dist/*.path "$work/debian"
sed -i 's,/usr/local/sbin,/usr/sbin,' "$work"/debian/*.service
sed -i "s,@MAINTAINER@,$maintainer," "$work/debian/control"
licence=$(sed -e '1,/^$/d' -e 's/^$/./' -e 's/^/ /' LICENSE-MIT)
printf '%s\n' "$licence" >"$work/licence"
sed -i -e "/^@MIT@$/{r $work/licence
d}" "$work/debian/copyright"
rm "$work/licence"
cat >"$work/debian/changelog" <<END
pcidom ($version-$revision) unstable; urgency=medium

  * See /usr/share/doc/pcidom/changelog.gz.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
log=$out/log
(cd "$work" && dpkg-buildpackage --build=binary --no-sign --no-check-builddeps) >"$log" 2>&1 || {
	cat "$log" >&2
	exit 1
}
echo "deb: $out/pcidom_${version}-${revision}_amd64.deb"
