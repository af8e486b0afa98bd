#!/bin/sh
# Gets what the VM lane needs: Debian packages, and Debian's cloud kernel, which is unpacked and never installed.
# Prints the kernel's folder; exit status 3 with the reason on stderr when there can be no virtual machine here.
#
# usage: sh test/vm/prepare.sh CACHE_FOLDER
set -eu
cache=$1
mkdir -p "$cache"
log=$cache/apt.log

# qemu-system-common brings virtiofsd; busybox is the whole user space until the host's root is mounted; ipvsadm is
# somebody else at the virtual servers, for tests.
packages='qemu-system-x86 qemu-system-common busybox-static cpio ipvsadm'
meta_package=linux-image-cloud-amd64

unable() {
  echo "$1" >&2
  exit 3
}

apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" </dev/null >>"$log" 2>&1 9>&-
}

# A package index that is absent or too old shows only when something is fetched: once more after an update.
fetch() {
  "$@" || { apt update && "$@"; } || apt_failed
}

apt_failed() {
  tail -n 5 "$log" >&2
  unable "apt-get could not bring what the lane needs (above; all of it in $log)"
}

missing_packages() {
  installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' $packages 2>/dev/null || true) "
  for package in $packages; do
    case "$installed" in *" installed:$package "*) ;; *) printf '%s ' "$package" ;; esac
  done
}

install_packages() {
  echo "vm: installing Debian packages: $*" >&2
  fetch apt install --no-install-recommends "$@"
}

# The meta package depends on the package of the current kernel, whose name holds its version.
download_kernel() {
  package=$(apt-cache depends "$meta_package" 2>>"$log" | sed -n 's/.*Depends: \(linux-image-[0-9]\)/\1/p' | head -n 1)
  [ -n "$package" ] || return 1
  (cd "$1" && apt download "$package")
}

unpack_kernel() {
  echo "vm: downloading the kernel of $meta_package" >&2
  rm -rf "$cache"/kernel.part
  mkdir "$cache"/kernel.part
  # The user that apt downloads as.
  chown _apt "$cache"/kernel.part 2>/dev/null || true
  log=$(readlink -f "$log")
  fetch download_kernel "$cache"/kernel.part
  dpkg-deb -x "$cache"/kernel.part/*.deb "$cache"/kernel.part
  rm "$cache"/kernel.part/*.deb
  busybox depmod -b "$cache"/kernel.part "$(ls "$cache"/kernel.part/lib/modules)"
  mv "$cache"/kernel.part "$cache"/kernel
}

[ "$(uname -m)" = x86_64 ] || unable "the lane emulates x86_64 on x86_64; this machine is $(uname -m)"
command -v apt-get >/dev/null || unable 'no apt here, and so no kernel package of Debian'
exec 9>"$cache"/lock
flock 9
: >"$log"
missing=$(missing_packages)
# shellcheck disable=SC2086
[ -z "$missing" ] || install_packages $missing
[ -x /usr/lib/qemu/virtiofsd ] || unable "no /usr/lib/qemu/virtiofsd: the lane is made for Debian 12's qemu"
[ -d "$cache"/kernel ] || unpack_kernel
echo "$cache/kernel"
