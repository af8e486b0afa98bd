#!/bin/sh
# The virtual machine, in PID and mount namespaces of its own: qemu becomes PID 1 there, so that virtiofsd and the
# mounts end with it, however it ends. Writes into its folder: initramfs, console, results. Stdout is the guest's;
# stdin is not read, but must stay open, for qemu takes the end of one for the end of the other.
#
# usage: unshare --fork --pid --mount-proc sh test/vm/machine.sh KERNEL_FOLDER RUN_FOLDER
set -eu
kernel=$(readlink -f "$1")
here=$(readlink -f "$(dirname "$0")")
# Relative names from here on: a socket's path may have 107 bytes only, and /mnt is about to be hidden.
cd "$2"
version=$(ls "$kernel"/lib/modules)
# virtiofsd locks a file of this name that all machines share.
share=share-$(basename "$PWD")
memory_mb=768

# What the guest needs to reach the host's root; everything else it then loads from there.
first_modules='virtio_pci virtio_console virtiofs overlay'

build_initramfs() {
  tree=initramfs.d
  modules=$tree/lib/modules/$version
  mkdir -p "$tree"/bin "$tree"/vm "$modules"
  cp /bin/busybox "$tree"/bin/
  cp "$here"/init.sh "$tree"/init
  chmod +x "$tree"/init
  cp "$here"/guest.sh "$tree"/vm/
  cp job "$tree"/vm/job
  echo "$kernel" >"$tree"/vm/kernel
  echo "$first_modules" >"$tree"/vm/first-modules
  cp "$kernel"/lib/modules/"$version"/modules.dep "$modules"/
  for module in $first_modules; do
    # "kernel/a/b.ko: kernel/c/d.ko …", with the dependencies of dependencies.
    for file in $(sed -n "s|^\(.*/$module\.ko\):|\1|p" "$modules"/modules.dep); do
      mkdir -p "$modules/${file%/*}"
      cp "$kernel/lib/modules/$version/$file" "$modules/$file"
    done
  done
  (cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0) >initramfs
}

# A second sight of everything, which cannot be written through whatever the guest does.
share_root() {
  mount --rbind / /mnt
  mount -o remount,bind,ro /mnt
  awk '$5 ~ "^/mnt/" { print $5 }' /proc/self/mountinfo | while read -r place; do
    mount -o remount,bind,ro "$(printf '%b' "$place")" 2>/dev/null || true
  done
  /usr/lib/qemu/virtiofsd --socket-path="$share" -o source=/mnt -o cache=always -o sandbox=chroot \
    --thread-pool-size=4 >virtiofsd.log 2>&1 </dev/null &
  tries=100
  until [ -S "$share" ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { cat virtiofsd.log >&2 && exit 1; }
    sleep 0.05
  done
}

build_initramfs
cp "$kernel/boot/vmlinuz-$version" kernel
share_root
# No network device: what the tests send stays in the guest. The processor's own random numbers and its time stamps
# are taken as they come, and nothing is mitigated: emulation makes each of these slow.
exec qemu-system-x86_64 \
  -accel tcg,thread=multi,tb-size=256 -cpu max -smp 2 -m "$memory_mb" -machine q35,usb=off,vmport=off \
  -nodefaults -no-user-config -display none -no-reboot \
  -kernel kernel -initrd initramfs \
  -append 'console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check tsc=reliable mitigations=off nokaslr
    random.trust_cpu=on selinux=0 apparmor=0 audit=0' \
  -serial file:console \
  -object memory-backend-memfd,id=memory,size="$memory_mb"M,share=on -numa node,memdev=memory \
  -chardev socket,id=share,path="$share" -device vhost-user-fs-pci,chardev=share,tag=root \
  -device virtio-serial-pci \
  -chardev stdio,id=output,signal=off -device virtserialport,chardev=output,name=output \
  -chardev file,id=results,path=results -device virtserialport,chardev=results,name=results
