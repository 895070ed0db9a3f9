#!/bin/bash
# up.sh: starts a Kubernetes of one node and waits until it is of use; down.sh ends it. Needs root, and what install.sh made.
#
# Sourced by `with`, which sets DIES_WITH_US: then the cluster ends with that shell, however that ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ./env.sh
began=$(date +%s%3N)
say() { printf '%6.1fs  %s\n' "$(($(date +%s%3N) - began))e-3" "$*"; }

[ "$(id -u)" = 0 ] || { echo "up.sh: must be root: it makes network namespaces and runs containers" >&2; exit 1; }
[ -x "$BIN/kube" ] || { echo "up.sh: run install.sh first" >&2; exit 1; }
./down.sh >/dev/null 2>&1 9>&- || true # what an earlier run may have left

# --- addresses: everything in one namespace without a way out
ip netns add "$NETNS"
inside() { nsenter --net="/run/netns/$NETNS" -- "$@"; }
inside ip link set lo up
# A veth pair with both ends in here stands in for a dummy device, which not every kernel has.
inside ip link add node0 type veth peer name node0-far
inside ip link set node0-far up
inside ip addr add "$NODE_IP/24" dev node0
inside ip link set node0 up
# A packet to a Service is routed before it is rewritten, so there has to be some route; anything else is refused at once.
inside ip route add "$SERVICE_NET" dev node0
inside ip route add "$LB_NET" dev node0
inside ip route add unreachable default
inside ip -6 route add unreachable default 2>/dev/null || true
inside sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0

# --- files
# shellcheck disable=SC2086 # a list
mkdir -p "$RUN"/{cni,log,pids} $HOST_DIRS
for s in $SYSCTLS; do sysctl "$s"; done >"$RUN/sysctl-before" 2>/dev/null
chmod 700 "$RUN"
./pki.sh "$RUN"
for f in containerd.toml kubelet.yaml kube-proxy.yaml coredns.yaml cni.conflist; do
    sed -e "s|@RUN@|$RUN|g;s|@NODE_IP@|$NODE_IP|g;s|@NODE_NAME@|$NODE_NAME|g;s|@POD_NET@|$POD_NET|g;s|@CGROUP@|$CGROUP|g" \
        -e "s|@DNS_IP@|$DNS_IP|g;s|@DOMAIN@|$CLUSTER_DOMAIN|g;s|@PAUSE_IMAGE@|$PAUSE_IMAGE|g;s|@DNS_IMAGE@|$DNS_IMAGE|g" \
        -e "s|@PROXY_MODE@|$PROXY_MODE|g" "templates/$f" >"$RUN/$f"
done
mv "$RUN/cni.conflist" "$RUN/cni/10-kube.conflist"
echo "nameserver 127.0.0.1" >"$RUN/resolv.conf" # for pods with dnsPolicy Default: nobody that could be asked
# The kubelet's cgroup has to exist beforehand: under every controller (v1), or once with all of them (v2).
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true; done
    mkdir -p "/sys/fs/cgroup/$CGROUP"
else
    for c in /sys/fs/cgroup/*/; do
        case $c in */unified/) continue ;; esac
        [ -f "$c/cgroup.procs" ] && mkdir -p "$c/$CGROUP"
    done
    for f in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$f" >"/sys/fs/cgroup/cpuset/$CGROUP/$f"; done # a new one starts empty
fi

# --- processes
# nsenter, not `ip netns exec`: that one puts a fresh sysfs over /sys, without the cgroups below it.
# A network namespace, a mount namespace (no mount is seen outside) and a PID namespace (ending its first process ends all).
setsid nsenter --net="/run/netns/$NETNS" ${DIES_WITH_US:+setpriv --pdeathsig KILL} \
    unshare --mount --pid --fork --kill-child --mount-proc ./node.sh >"$RUN/log/node.log" 2>&1 </dev/null 9>&- &
echo $! >"$RUN/unshare.pid"
disown # no message about its end
until_ok() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ] || ! kill -0 "$(cat "$RUN/unshare.pid")" 2>/dev/null; then
            echo "up.sh: gave up waiting for: $what; the last lines of each log:" >&2
            tail -n 5 "$RUN"/log/*.log >&2
            exit 1
        fi
        sleep 0.1
    done
}
k() { inside "$BIN/kubectl" --kubeconfig "$RUN/admin.conf" "$@"; }
# One call an archive. Two come first, without which the node does not get ready; the rest while it starts.
import() { for i; do ctr -a "$RUN/containerd.sock" -n k8s.io images import "$i" || return; done >>"$RUN/log/import.log" 2>&1; }
until_ok 30 containerd ctr -a "$RUN/containerd.sock" version
import "$IMAGES/pause.tar" "$IMAGES/coredns.tar"
rest=()
for i in "$IMAGES"/*.tar ${SELVAGE_CLUSTER_IMAGES:-}; do
    case $i in */pause.tar | */coredns.tar) ;; *) rest+=("$i") ;; esac
done
import "${rest[@]}" 9>&- &
importing=$!
# curl, as a call of kubectl costs a tenth of a second of a core.
api_ready() { inside curl -fs --cacert "$RUN/pki/ca.crt" --cert "$RUN/pki/admin.crt" --key "$RUN/pki/admin.key" "https://$NODE_IP:$API_PORT/readyz"; }
until_ok 120 "the API server" api_ready
until_ok 60 "the cluster's DNS to be applied" k apply -f "$RUN/coredns.yaml"
until_ok 120 "the node to register" k get node "$NODE_NAME"
until_ok 120 "the node to be ready" k wait --for=condition=Ready --timeout=10s "node/$NODE_NAME"
until_ok 60 "the default service account" k get serviceaccount default
until_ok 120 "the cluster's DNS" k -n kube-system wait --for=condition=Available --timeout=10s deployment/coredns
say "the node and its DNS are ready"
wait $importing || { echo "up.sh: an image could not be imported:" >&2; tail -n 5 "$RUN/log/import.log" >&2; exit 1; }
say "all images are imported; try $RECIPE/within kubectl get pods -A"
