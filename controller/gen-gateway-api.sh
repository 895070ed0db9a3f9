#!/usr/bin/env bash
# Writes controller/src/gateway_api/ again from the CRDs of Gateway API (experimental channel).
#
# Needs go, cargo and kopium 0.24 (`cargo install kopium --version 0.24.1`). `make gen` calls this.
# The types are kopium's; the schemas are the CRDs' own, without their descriptions, so that files are
# checked and defaulted as the API server does it.
set -euo pipefail
cd "$(dirname "$0")"

version=v1.7.0
out=src/gateway_api
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The module is only read; GOTOOLCHAIN=local makes an old go complain after it has downloaded it, which does no harm.
(cd "$work" && go mod init crds >/dev/null 2>&1 && { go mod download "sigs.k8s.io/gateway-api@$version" || true; })
crds=$(go env GOMODCACHE)/sigs.k8s.io/gateway-api@$version/config/crd/experimental
[ -d "$crds" ] || { echo "gen-gateway-api: $crds does not exist: go could not download gateway-api $version" >&2; exit 1; }

mkdir -p "$out/schemas"
for plural in gatewayclasses gateways listenersets httproutes grpcroutes tcproutes tlsroutes referencegrants; do
  file=gateway.networking.k8s.io_$plural.yaml
  (cd "$crds" && kopium -f "$file" --api-version v1 --hide-kube --derive PartialEq) >"$out/$plural.rs"
  cargo run --quiet --example strip_schema -- "$crds/$file" v1 >"$out/schemas/$plural.json"
done
rustfmt --edition 2024 "$out"/mod.rs
