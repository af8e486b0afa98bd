#!/bin/sh
# A node as a container runtime sees it: the network namespace of a lab's node with processes, mounts and cgroups of
# its own, so that nothing that a runtime does or forgets outlives it.
# runtime-host.sh NODE_NETNS NODE_RUN_DIR DIRECTORY
# Inside, DIRECTORY is /mnt, its folders bin and net.d are /opt/cni/bin and /etc/cni/net.d, and the agent listens at
# its usual place. Says "ready PID" and lives until its stdin ends, however that ends.
set -eu

case $1 in /*) exec unshare --mount sh "$0" --outside "$@" ;; esac

if [ "$1" = --outside ]; then
  shift
  exec 8<"$1"
  # A copy of a mounted namespace could keep it alive after its owner has removed it, as some have meanwhile.
  awk '$3 == "nsfs" { print $2 }' /proc/self/mounts | while read -r path; do umount -l "$path" || true; done 2>/dev/null
  umount -l -R /sys/fs/cgroup # not version 1, and not both: crun refuses that
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  own=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
  group=$own/fairlead-test-$$
  mkdir "$group"
  echo $$ >"$group/cgroup.procs"
  status=0
  nsenter --net=/proc/self/fd/8 unshare --mount --pid --cgroup --fork --kill-child \
    sh "$0" --inside "$2" "$3" || status=$?
  echo $$ >"$own/cgroup.procs"
  find "$group" -depth -type d -exec rmdir {} +
  exit $status
fi

exec 8<&-
run=$2 directory=$3
read -r pid _ </proc/self/stat # the old /proc still says what number we have outside
mount -t proc proc /proc
mkdir -p "$directory/bin" "$directory/net.d" "$directory/agent"
mount --bind "$directory" /mnt
mount --bind "$run" /mnt/agent
for path in /run /var/lib /var/tmp /opt /etc/cni; do mount -t tmpfs tmpfs "$path"; done
mkdir -p /run/netns /run/fairlead /opt/cni/bin /etc/cni/net.d
mount --bind /mnt/agent /run/fairlead
mount --bind /run/netns /run/netns
mount --make-shared /run/netns # as `ip netns` has it; podman would do it
mount --bind /mnt/bin /opt/cni/bin
mount --bind /mnt/net.d /etc/cni/net.d
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup # of its own group now
exec 7<&0
cat <&7 >/dev/null & # while it waits, the shell takes up the processes whose parents have ended
echo "ready $pid"
wait $!
