#!/bin/sh
# Removes a cluster: the processes in its network namespaces, the namespaces, its directory.
# teardown.sh PREFIX DIRECTORY [--when-stdin-ends]
# With the last argument it first waits until stdin ends, which is when the process that holds the other end has
# ended, however it ended.
set -u
prefix=$1 directory=$2
case $prefix in fl-?*-) ;; *) echo "teardown: not a cluster's prefix: $prefix" >&2; exit 64 ;; esac
[ "${3:-}" = --when-stdin-ends ] && cat >/dev/null
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
case $directory in /run/fairlead/cluster/?*) rm -rf -- "$directory" ;; esac
exit $status
