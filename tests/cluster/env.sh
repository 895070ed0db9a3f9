# Settings that the scripts of the test cluster share. To be sourced; those with a default in braces can be set from outside.
RECIPE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# What survives between runs: binaries, image archives, CRDs. Outside the tree; in CI this is the directory to keep.
CACHE=${SELVAGE_CLUSTER_CACHE:-$HOME/.cache/selvage/cluster}
# One machine can have several clusters at once, each with a name of its own.
: "${SELVAGE_CLUSTER:=selvage}"
# What a run leaves and `down` removes: etcd, containers, certificates, logs, sockets. Short, because names of Unix sockets are.
RUN=/var/lib/$SELVAGE_CLUSTER-cluster

# The cluster lives in one network namespace; all its addresses exist only there, and there is no way out.
NETNS=$SELVAGE_CLUSTER-cluster
CGROUP=$SELVAGE_CLUSTER-cluster
NODE_NAME=node0
NODE_IP=${NODE_IP:-10.77.0.1}
API_PORT=${API_PORT:-6443}
POD_NET=10.244.0.0/16
SERVICE_NET=10.96.0.0/16
API_SERVICE_IP=10.96.0.1 # the first of SERVICE_NET
DNS_IP=10.96.0.10
LB_NET=10.78.0.0/24 # for Services of type LoadBalancer
CLUSTER_DOMAIN=cluster.local
: "${PROXY_MODE:=nftables}" # or iptables

# Directories whose place cannot be configured: inside the cluster they are its own, see node.sh.
HOST_DIRS="/run/netns /run/containerd /var/lib/cni /var/lib/kubelet /var/log/pods /var/log/containers /usr/libexec/kubernetes"
# What the kubelet sets for the whole machine; down.sh puts it back.
SYSCTLS="vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"

KUBE_VERSION=v1.35.8
HELM_VERSION=v3.20.2
COREDNS_VERSION=v1.13.1
# Images of the cluster itself are made here too, so their names are ours.
PAUSE_IMAGE=selvage.test/pause:1
DNS_IMAGE=selvage.test/coredns:$COREDNS_VERSION

BIN=$CACHE/bin
IMAGES=$CACHE/images
