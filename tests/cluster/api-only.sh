#!/bin/bash
# api-only.sh DIR [COMMAND...]: only etcd and kube-apiserver, on loopback: no namespaces, no containers, no need to be root. Enough for a
# controller, CRDs, admission by CEL, RBAC and conflicts; no pod ever runs, nothing is collected. Runs COMMAND with KUBECONFIG set and
# then ends both; without COMMAND, until it is killed.
set -euo pipefail
D=$(mkdir -p "$1" && cd "$1" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
export NODE_IP=127.0.0.1 API_PORT=${API_PORT:-16443}
ETCD_PORT=${ETCD_PORT:-12379}
. "$here/env.sh"
"$here/pki.sh" "$D"
P=$D/pki
"$BIN/etcd" --name a --data-dir "$D/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
    --listen-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((ETCD_PORT + 1))" \
    --initial-cluster "a=http://127.0.0.1:$((ETCD_PORT + 1))" >"$D/etcd.log" 2>&1 &
etcd=$!
"$BIN/kube-apiserver" --etcd-servers "http://127.0.0.1:$ETCD_PORT" --bind-address 127.0.0.1 --secure-port "$API_PORT" \
    --advertise-address 192.0.2.1 --service-cluster-ip-range "$SERVICE_NET" --endpoint-reconciler-type none \
    --tls-cert-file "$P/apiserver.crt" --tls-private-key-file "$P/apiserver.key" --client-ca-file "$P/ca.crt" \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$P/sa.pub" \
    --service-account-signing-key-file "$P/sa.key" --authorization-mode RBAC --allow-privileged \
    --disable-admission-plugins ServiceAccount >"$D/kube-apiserver.log" 2>&1 &
api=$!
disown -a # no messages about their end
trap 'kill -KILL $api $etcd 2>/dev/null' EXIT # nothing here is worth an orderly end
trap 'exit 143' TERM INT HUP
export KUBECONFIG=$D/admin.conf PATH=$BIN:$PATH
until curl -fs -o /dev/null --cacert "$P/ca.crt" --cert "$P/admin.crt" --key "$P/admin.key" "https://127.0.0.1:$API_PORT/readyz"; do
    kill -0 $api && kill -0 $etcd || { tail -n 20 "$D"/*.log >&2; exit 1; }
    sleep 0.05
done
echo "the API server is ready; KUBECONFIG=$KUBECONFIG" >&2
if [ $# -gt 0 ]; then "$@"; else while kill -0 $api; do sleep 1; done; fi
