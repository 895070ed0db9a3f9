#!/bin/bash
# node.sh: process 1 of the cluster's PID namespace, started by up.sh. Starts every component and waits; when it ends, the kernel ends
# every process of the cluster, containers too, and drops every mount they made.
set -u
. "$(dirname "$0")/env.sh"
LOG=$RUN/log
P=$RUN/pki
export PATH=$BIN:/usr/sbin:/usr/bin:/sbin:/bin
ulimit -n "$(ulimit -Hn)"

# Mounts stay in here, but containers may share them among themselves.
mount --make-rprivate / && mount --make-rshared /
for d in $HOST_DIRS; do
    mkdir -p "$RUN/host$d" && mount --bind "$RUN/host$d" "$d"
done

declare -A NAME
start() { # NAME ARGUMENTS...
    "$@" >"$LOG/$1.log" 2>&1 &
    NAME[$!]=$1
    echo $! >"$RUN/pids/$1"
}

start containerd --config "$RUN/containerd.toml" --log-level warn
# No fsync: the data is worth nothing after a crash, and it is three times as fast.
start etcd --name "$NODE_NAME" --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "$NODE_NAME=http://127.0.0.1:2380"
# shellcheck disable=SC2086 # more arguments
start kube-apiserver \
    --etcd-servers http://127.0.0.1:2379 \
    --bind-address 0.0.0.0 --secure-port "$API_PORT" --advertise-address "$NODE_IP" \
    --service-cluster-ip-range "$SERVICE_NET" \
    --tls-cert-file "$P/apiserver.crt" --tls-private-key-file "$P/apiserver.key" \
    --client-ca-file "$P/ca.crt" \
    --kubelet-certificate-authority "$P/ca.crt" \
    --kubelet-client-certificate "$P/apiserver-kubelet-client.crt" --kubelet-client-key "$P/apiserver-kubelet-client.key" \
    --kubelet-preferred-address-types InternalIP \
    --requestheader-client-ca-file "$P/ca.crt" --requestheader-allowed-names front-proxy-client \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group \
    --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$P/front-proxy-client.crt" --proxy-client-key-file "$P/front-proxy-client.key" \
    --service-account-issuer "https://kubernetes.default.svc.$CLUSTER_DOMAIN" \
    --service-account-key-file "$P/sa.pub" --service-account-signing-key-file "$P/sa.key" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --allow-privileged --enable-aggregator-routing \
    --service-node-port-range 30000-32767 ${APISERVER_ARGS:-}
# The others retry by themselves until the API answers, but with growing pauses: waiting here is quicker.
for _ in $(seq 600); do
    curl -fs -o /dev/null --cacert "$P/ca.crt" --cert "$P/admin.crt" --key "$P/admin.key" "https://$NODE_IP:$API_PORT/readyz" && break
    sleep 0.1
done
start kube-controller-manager \
    --kubeconfig "$RUN/controller-manager.conf" --leader-elect=false \
    --use-service-account-credentials --bind-address 127.0.0.1 \
    --service-account-private-key-file "$P/sa.key" --root-ca-file "$P/ca.crt" \
    --cluster-signing-cert-file "$P/ca.crt" --cluster-signing-key-file "$P/ca.key" \
    --cluster-cidr "$POD_NET" --service-cluster-ip-range "$SERVICE_NET" --allocate-node-cidrs=false \
    --kube-api-qps 200 --kube-api-burst 400
start kube-scheduler \
    --kubeconfig "$RUN/scheduler.conf" --leader-elect=false --bind-address 127.0.0.1 \
    --kube-api-qps 200 --kube-api-burst 400
start kubelet --config "$RUN/kubelet.yaml" --kubeconfig "$RUN/kubelet.conf" \
    --hostname-override "$NODE_NAME" --node-ip "$NODE_IP" --root-dir "$RUN/kubelet" --cert-dir "$RUN/pki"
start kube-proxy --config "$RUN/kube-proxy.yaml"
start kube-lb -kubeconfig "$RUN/admin.conf" -range "$LB_NET"

trap 'exit 0' TERM INT
while :; do
    wait -n -p ended
    code=$?
    name=${NAME[${ended:-0}]:-}
    [ -n "$name" ] && echo "$(date -u +%FT%TZ) $name (process $ended) ended with $code"
    unset ended
    sleep 0.2
done
