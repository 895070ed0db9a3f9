#!/bin/bash
# pki.sh DIR: the certificates and kubeconfig files of a cluster, new each time (half a second). One CA signs everything; nothing of it
# outlives the cluster.
set -euo pipefail
. "$(dirname "$0")/env.sh"
RUN=$1
PKI=$RUN/pki
mkdir -p "$PKI"
cd "$PKI"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key" 2>/dev/null; }

key ca
openssl req -x509 -new -key ca.key -subj /CN=selvage-test-cluster -days 3650 -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature

# cert NAME SUBJECT USAGE [SAN]
cert() {
    local ext="keyUsage=critical,digitalSignature\nextendedKeyUsage=$3\n"
    [ -n "${4:-}" ] && ext+="subjectAltName=$4\n"
    key "$1"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
        -out "$1.crt" -extfile <(printf "$ext") 2>/dev/null
    rm -f "$1.csr"
}
cert apiserver /CN=kube-apiserver serverAuth "IP:127.0.0.1,IP:$NODE_IP,IP:$API_SERVICE_IP,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$CLUSTER_DOMAIN"
cert kubelet-server "/O=system:nodes/CN=system:node:$NODE_NAME" serverAuth "DNS:$NODE_NAME,IP:$NODE_IP"
cert apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
cert front-proxy-client /CN=front-proxy-client clientAuth
cert admin /O=system:masters/CN=kubernetes-admin clientAuth
cert kubelet "/O=system:nodes/CN=system:node:$NODE_NAME" clientAuth
cert controller-manager /CN=system:kube-controller-manager clientAuth
cert scheduler /CN=system:kube-scheduler clientAuth
cert kube-proxy /CN=system:kube-proxy clientAuth
# Service account tokens are signed with this pair.
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out sa.key 2>/dev/null
openssl pkey -in sa.key -pubout -out sa.pub

kubeconfig() { # FILE CERT
    cat >"$RUN/$1" <<END
apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: "https://$NODE_IP:$API_PORT", certificate-authority-data: $(base64 -w0 ca.crt)}
users:
- name: $2
  user: {client-certificate-data: $(base64 -w0 "$2.crt"), client-key-data: $(base64 -w0 "$2.key")}
contexts:
- name: test
  context: {cluster: test, user: $2}
current-context: test
END
    chmod 600 "$RUN/$1"
}
kubeconfig admin.conf admin
kubeconfig kubelet.conf kubelet
kubeconfig controller-manager.conf controller-manager
kubeconfig scheduler.conf scheduler
kubeconfig kube-proxy.conf kube-proxy
