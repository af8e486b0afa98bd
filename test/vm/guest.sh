#!/bin/sh
# PID 1 of the guest after init.sh: makes the root a usual one, loads modules, runs one suite after the other.
# The port "output" is stdout of all; "results" takes one a line, words parted by tabs:
#   kernel VERSION SECONDS_SINCE_BOOT | module NAME (one that is not there) | begun FILE |
#   suite SECONDS EXIT_STATUS FILE
#
# The job: the checkout's folder, the seconds for everything, modules, then LIMIT_SECONDS FILE MATCH of each suite,
# parted by tabs; MATCH selects tests by their titles, and is a bench's option.
port() {
  for entry in /sys/class/virtio-ports/*; do
    [ "$(cat "$entry"/name)" != "$1" ] || echo "/dev/${entry##*/}"
  done
}
exec </dev/null >"$(port output)" 2>&1 3>"$(port results)" 4</run/vm/job
IFS= read -r checkout <&4
read -r budget_seconds <&4
read -r modules <&4
kernel=$(cat /run/vm/kernel)
version=$(uname -r)

mkdir -p /run/lock /run/netns /run/tmp /dev/shm /dev/pts "/lib/modules/$version"
mount -t tmpfs shm /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%:*}" "/dev/${stream#*:}"; done
mount --bind "$kernel/lib/modules/$version" "/lib/modules/$version"
/run/busybox hostname vm
/run/busybox ip link set lo up

# What the kernel asks for by itself (a kind of link, an expression of nf_tables) comes the same way: the host may
# have no modprobe.
printf '#!/bin/sh\nexec /run/busybox modprobe "$@"\n' >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
# Else ipip and its like put a link of their own into every namespace, also of tests that count links.
echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net
for module in $modules; do
  /run/busybox modprobe "$module" 2>/dev/null || printf 'module\t%s\n' "$module" >&3
done

seconds() {
  read -r up _ </proc/uptime
  echo "${up%.*}"
}

# Where a process crashed, and of whom, only the kernel knows; of some signals it tells only when it is asked to. These
# are shown, and are no crash of Node's: an abort may be ours.
echo 1 >/proc/sys/kernel/print-fatal-signals
crashes() {
  /run/busybox dmesg | grep -E 'segfault|traps:'
}

export HOME=/root TERM=dumb TMPDIR=/run/tmp NO_COLOR=1 FORCE_COLOR=0 CI=1 NODE_COMPILE_CACHE=/run/compile-cache
export PATH="$checkout/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
tab=$(printf '\t')
cd "$checkout" || exit
printf 'kernel\t%s\t%s\n' "$version" "$(seconds)" >&3
while IFS=$tab read -r limit_seconds file match <&4; do
  began=$(seconds)
  # A shorter one may still fit.
  [ "$((began + limit_seconds))" -le "$budget_seconds" ] || continue
  printf '\n%s\n' "$file${match:+: $match}"
  printf 'begun\t%s\n' "$file" >&3
  # ava's own limit, for a test that stands still, is made for faster machines: here the file has one.
  case $file in
    bench/*) set -- node bench/main.ts "$(basename "$file" .ts)" ${match:+"$match"} ;;
    *) set -- ava --timeout=60m --concurrency=1 --match="${match:-*}" "$file" ;;
  esac
  before=$(crashes | wc -l)
  for turn in first second; do
    timeout --kill-after=5 "$limit_seconds" "$@" 3>&- 4<&-
    status=$?
    [ "$status" -ne 0 ] || break
    /run/busybox dmesg | grep -E 'unexpected fatal signal|Out of memory|BUG:|WARNING:'
    crashed=$(crashes | tail -n "+$((before + 1))")
    # Under emulation one start of Node in some dozens ends with a crash inside of V8, which no real processor has shown:
    # such a file has a second turn. Tests that crash by themselves do so on the host as well, where none has.
    [ -n "$crashed" ] || break
    printf 'vm: crashed in %s:\n%s\n' "$file" "$crashed"
    [ "$turn" = first ] && [ "$(($(seconds) + limit_seconds))" -le "$budget_seconds" ] || break
    echo "vm: $file begins again"
  done
  printf 'suite\t%s\t%s\t%s\n' "$(($(seconds) - began))" "$status" "$file" >&3
done
/run/busybox poweroff -f
