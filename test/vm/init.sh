#!/bin/busybox sh
# PID 1 of the guest until the host's root is there: read-only below, everything written stays in memory.
/bin/busybox --install -s /bin
PATH=/bin
stop() {
  echo "init: $1" >/dev/console
  poweroff -f
}

mkdir -p /proc /sys /dev /lower /upper /new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /vm/first-modules); do modprobe "$module" || stop "no module $module"; done
mount -t virtiofs -o ro root /lower || stop "the host's root cannot be mounted"
mount -t tmpfs -o mode=755 upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /new ||
  stop 'no overlay over the root of the host'
for place in proc sys dev; do mount --move /$place /new/$place; done
mount -t tmpfs -o mode=755 run /new/run
cp -a /vm /bin/busybox /new/run/
exec switch_root /new /bin/sh /run/vm/guest.sh
