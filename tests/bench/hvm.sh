#!/bin/bash
# `make test-hvm`: an HVM guest with its device model in a Linux stub domain, on Xen in QEMU. Its parts come from Debian's packages: QEMU for Xen with its libraries, and GRUB, which
# reads the guest's kernel from a disk: through QEMU's own firmware interface that takes a minute.
set -euo pipefail

debian=build/bench/debian-12
dir=build/bench/hvm
here=tests/bench/hvm
logs=build/bench/logs/hvm

cargo run --locked --quiet --package bench -- --debian 12 fetch
root=$debian/root
busybox=$root/bin/busybox
kernel=$(echo $root/boot/vmlinuz-*)

# Unpacks QEMU and GRUB with what they depend on, once.
if [ ! -e $dir/unpacked ]; then
	echo "hvm: fetching QEMU for Xen"
	mkdir -p $dir/debs
	apt=$PWD/$debian/apt
	options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
		-o "Dir::State::Lists=$apt/lists" -o "Dir::State::Status=$apt/status" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User= -o APT::Architecture=amd64)
	packages=$(apt-cache "${options[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances qemu-system-xen |
		grep '^[a-z]' | sort -u)
	# shellcheck disable=SC2086 # a list
	(cd $dir/debs && apt-get -q "${options[@]}" download $packages grub-common grub-pc-bin >/dev/null)
	for file in $dir/debs/*.deb; do dpkg -x "$file" $dir/root; done
	touch $dir/unpacked
fi

# begin DIR: the folder of an archive, with busybox.
begin() {
	rm -rf "$1"
	mkdir -p "$1"/{bin,dev,proc,sys,tmp,run,modules}
	cp "$busybox" "$1/bin/busybox"
	for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"; done
	ln -s bin "$1/sbin"
}
pack() { (cd "$1" && find . | "$OLDPWD/$busybox" cpio -o -H newc 2>/dev/null); }
# modules DIR NAME...: these and what they depend on, in `order`.
modules() {
	local to=$1/modules name file
	shift
	for name in "$@"; do
		file=$(find $root/lib/modules -name "${name//[-_]/[-_]}.ko" | head -1)
		[ -n "$file" ] || continue
		# shellcheck disable=SC2046 # names
		[ -e "$to/$name.ko" ] || {
			modules "${to%/modules}" $(strings "$file" | sed -n 's/^depends=//p' | tr ',' ' ')
			cp "$file" "$to/$name.ko"
			echo "$name" >>"$to/order"
		}
	done
}
# libraries DIR FILE: what a program needs.
libraries() {
	local name file
	for name in $(objdump -p "$2" | awk '/NEEDED/ { print $2 }'); do
		[ -e "$1/usr/lib/x86_64-linux-gnu/$name" ] && continue
		file=$(find $dir/root $root -name "$name" -path '*x86_64-linux-gnu*' | head -1)
		mkdir -p "$1/usr/lib/x86_64-linux-gnu"
		cp -L "$file" "$1/usr/lib/x86_64-linux-gnu/$name"
		libraries "$1" "$file"
	done
}
# device_model DIR: QEMU, its firmware and the channel to its monitor.
device_model() {
	mkdir -p "$1"/usr/{bin,libexec,share/qemu} "$1/usr/share/seabios"
	cp $dir/root/usr/libexec/xen-qemu-system-i386 "$1/usr/libexec/"
	cp -r $dir/root/usr/share/qemu/{keymaps,kvmvapic.bin} $dir/root/usr/share/seabios/*.bin "$1/usr/share/qemu/"
	cp $dir/root/usr/share/seabios/bios-256k.bin "$1/usr/share/seabios/"
	cp $root/usr/lib/xen-4.17/bin/vchan-socket-proxy "$1/usr/bin/"
	for file in "$1"/usr/libexec/xen-qemu-system-i386 "$1"/usr/bin/vchan-socket-proxy; do libraries "$1" "$file"; done
}

echo "hvm: building images"
begin $dir/guest
modules $dir/guest xen-pcifront crc64_rocksoft_generic nvme e1000e ahci sd_mod
cp $here/guest $dir/guest/init
pack $dir/guest | gzip -9 >$dir/guest.cpio.gz

# GRUB reads kernel and archive by their places on the disk: there is no file system.
sectors() { echo $((($(stat -c %s "$1") + 511) / 512)); }
at=2048
behind=$((at + $(sectors "$kernel")))
cat >$dir/grub.cfg <<END
linux (hd0)$at+$(sectors "$kernel") console=ttyS0 quiet mitigations=off cryptomgr.notests panic=-1
initrd (hd0)$behind+$(sectors $dir/guest.cpio.gz)
boot
END
grub=$dir/root/usr/lib/grub/i386-pc
$dir/root/usr/bin/grub-mkimage -d $grub -O i386-pc -p / -c $dir/grub.cfg -o $dir/core.img biosdisk linux
cat $grub/boot.img $dir/core.img >$dir/disk.img
truncate -s $((at * 512)) $dir/disk.img
cat "$kernel" >>$dir/disk.img
truncate -s $((behind * 512)) $dir/disk.img
cat $dir/guest.cpio.gz >>$dir/disk.img
truncate -s %512 $dir/disk.img

begin $dir/stub-domain
modules $dir/stub-domain xenfs xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xen-pcifront
device_model $dir/stub-domain
ln -s ../usr/libexec/xen-qemu-system-i386 ../usr/bin/vchan-socket-proxy $dir/stub-domain/bin/
for program in read list; do
	cp $root/usr/bin/xenstore-$program $dir/stub-domain/bin/
	libraries $dir/stub-domain $dir/stub-domain/bin/xenstore-$program
done
mkdir -p $dir/stub-domain/{lib,lib64}
ln -s ../usr/lib/x86_64-linux-gnu $dir/stub-domain/lib/x86_64-linux-gnu
cp -L $root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 $dir/stub-domain/lib64/
cp $dir/disk.img $dir/stub-domain/
cp $here/stub-domain $dir/stub-domain/init

rm -rf $dir/dom0
device_model $dir/dom0
mkdir -p $dir/dom0/{bench,etc/xen} $dir/dom0/usr/lib/{xen/boot,xen-4.17/boot}
cp $root/usr/lib/xen-4.17/boot/hvmloader $dir/dom0/usr/lib/xen-4.17/boot/
pack $dir/stub-domain >$dir/dom0/bench/stub-domain.cpio
cp examples/pcidom.cfg $dir/dom0/etc/xen/
cp build/pcidom.elf $dir/dom0/usr/lib/xen/boot/
cp build/pcidom $dir/dom0/usr/bin/
cat >$dir/dom0/etc/xen/hvm.cfg <<END
name = "hvm"
type = "hvm"
memory = 384
serial = "pty"
vga = "none"
usb = 0
sdl = 0
vnc = 0
vkb_device = 0
device_model_version = "qemu-xen"
device_model_stubdomain_override = 1
stubdomain_kernel = "/boot/vmlinuz"
stubdomain_ramdisk = "/bench/stub-domain.cpio"
stubdomain_memory = 320
stubdomain_cmdline = "console=hvc0 quiet mitigations=off rodata=off cryptomgr.notests"
END
cat >$dir/dom0/etc/xen/pv.cfg <<END
name = "pv"
kernel = "/boot/vmlinuz"
ramdisk = "/bench/guest.cpio.gz"
extra = "console=hvc0 iommu=soft quiet mitigations=off rodata=off cryptomgr.notests swiotlb=8192"
memory = 192
passthrough = "enabled"
e820_host = 1
END
cp $dir/guest.cpio.gz $dir/dom0/bench/
cp $here/dom0 $dir/dom0/init
{ cat $debian/images/dom0.cpio && pack $dir/dom0; } >$dir/dom0.cpio

rm -rf $logs
mkdir -p $logs/share
truncate -s 64M $dir/nvme.img $dir/sata.img
# rdtscp=off: QEMU raises the exit of RDTSC for it, and Xen ends an HVM guest that uses it.
timeout "${HVM_LIMIT:-1500}" qemu-system-x86_64 -M q35,kernel-irqchip=split -accel tcg,thread=multi -cpu max,la57=off,smap=off,xsave=off,rdtscp=off -smp 2 -m 4608 \
	-display none -nodefaults -no-reboot -serial stdio -kernel $debian/images/xen.elf \
	-append "console=com1 com1=115200,8n1 dom0_mem=2048M,max:2048M conring_size=1M bootscrub=off loglvl=info guest_loglvl=warning" \
	-initrd "$debian/images/vmlinux console=hvc0 quiet panic=-1 mitigations=off rodata=off cryptomgr.notests,$dir/dom0.cpio" \
	-device intel-iommu,intremap=on,device-iotlb=off \
	-fsdev local,id=share,path=$logs/share,security_model=none -device virtio-9p-pci,fsdev=share,mount_tag=share,addr=3 \
	-drive if=none,id=disk,format=raw,file=$dir/nvme.img -device nvme,serial=bench,drive=disk,addr=7 \
	-netdev hubport,id=net,hubid=0 -device e1000e,addr=8,netdev=net -netdev hubport,id=ours,hubid=0 -device virtio-net-pci,addr=9,netdev=ours \
	-drive if=none,id=sata,format=raw,file=$dir/sata.img -device ich9-ahci,id=ahci,addr=a -device ide-hd,bus=ahci.0,drive=sata </dev/null >$logs/dom0.log 2>&1 &
machine=$!
trap 'kill $machine 2>/dev/null || true' EXIT
touch $logs/share/report
tail -n +1 -f --pid=$machine $logs/share/report | grep --line-buffered '^case' || true
wait $machine || true
failed=$(grep -c FAILED $logs/share/report || true)
if ! grep -q '^end' $logs/share/report; then
	echo "hvm: the machine ended before the last case"
	failed=$((failed + 1))
fi
[ "$failed" = 0 ] || { echo "hvm: consoles are in $logs" && exit 1; }
