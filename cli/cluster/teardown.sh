#!/bin/sh
# Removes a cluster: the processes in its network namespaces, the namespaces, its directory.
# teardown.sh PREFIX DIRECTORY [--watch]
# Whoever makes or removes a cluster has its directory locked; exit status 75 says that somebody else does.
# With --watch it makes the directory, says "locked" and waits until the process at the other end of stdin says
# "remove" or "keep", or ends, however that ends.
set -u
prefix=$1 directory=$2
case $prefix in fl-?*-) ;; *) echo "teardown: not a cluster's prefix: $prefix" >&2; exit 64 ;; esac
trap '' PIPE # nobody may be left to read

if [ "${3:-}" = --watch ]; then (umask 077 && mkdir -p "$directory"); fi
if [ -d "$directory" ]; then
  exec 9<"$directory" || exit 75
  flock -n 9 && [ -d "$directory" ] || exit 75
fi
if [ "${3:-}" = --watch ]; then
  echo locked
  read -r word || sleep 0.5 # what it had started may still be making namespaces
  [ "$word" = keep ] && exit 0
fi
for path in /run/netns/"$prefix"*; do
  [ -e "$path" ] || continue
  pids=$(ip netns pids "${path##*/}")
  # shellcheck disable=SC2086 # one word a process
  [ -n "$pids" ] && kill -9 $pids 2>/dev/null
done
status=0
for path in /run/netns/"$prefix"*; do
  [ -e "$path" ] || continue
  ip netns del "${path##*/}" || status=1
done
# Last: with it goes the lock.
case $directory in /run/fairlead/cluster/?*) rm -rf -- "$directory" ;; esac
exit $status
