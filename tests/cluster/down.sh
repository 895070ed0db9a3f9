#!/bin/bash
# down.sh: ends the cluster and leaves nothing: processes, mounts, namespaces, cgroups, files, settings of the kernel.
# Ends only what up.sh started, and may be called at any time.
set -uo pipefail
cd "$(dirname "$0")"
. ./env.sh
if [ -e "$RUN/unshare.pid" ]; then
    # `unshare`, which waits for process 1 of the cluster's PID namespace and ignores TERM meanwhile. Ending it ends that one
    # (--kill-child), which ends everything in there; mounts go with the last process of their namespace.
    # After a reboot the number may be somebody else's: then the name is another too.
    pid=$(cat "$RUN/unshare.pid")
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = unshare ]; then
        first=$(pgrep -P "$pid")
        kill -KILL "$pid" 2>/dev/null
        for _ in $(seq 100); do kill -0 "${first:-$pid}" 2>/dev/null || break; sleep 0.05; done
    fi
fi
# The pods' cgroups are empty now; innermost first, with a moment's patience.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    left=$(find /sys/fs/cgroup -depth -type d -path "/sys/fs/cgroup*/$CGROUP*" 2>/dev/null)
    [ -z "$left" ] && break
    echo "$left" | while read -r d; do rmdir "$d" 2>/dev/null; done
    sleep 0.1
done
ip netns del "$NETNS" 2>/dev/null
[ -e "$RUN/sysctl-before" ] && sysctl -q -p "$RUN/sysctl-before"
case $RUN in /var/lib/*-cluster) rm -rf --one-file-system "$RUN" ;; esac
for d in $HOST_DIRS; do [ "$d" = /run/netns ] || rmdir "$d" 2>/dev/null; done # only those that are empty
[ ! -e "$RUN" ]
