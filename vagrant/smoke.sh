#!/usr/bin/env bash
# Does the node do what the document says? Run it on the node, as root: sudo vagrant/smoke.sh
# It makes the document's objects, asks them in every way, and removes them. Exit code 0: all steps held.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
objects=$here/examples/go-demo-2.yml
export KUBECONFIG=${KUBECONFIG:-/var/lib/podwire/kubeconfig}
patience=${SMOKE_PATIENCE:-120}  # seconds that the slowest machine may take for a step

step() { printf '== %s\n' "$*"; "$@"; }
die() { printf 'smoke: %s\n' "$*" >&2; exit 1; }

# Repeat a command until it succeeds: until_ok WHAT COMMAND ...
until_ok() {
  local what=$1 deadline=$((SECONDS + patience))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || { podwire get pods -o wide >&2; die "after $patience s still not: $what"; }
    sleep 0.5
  done
  printf '== %s\n' "$what"
}

api_is_ready() { [ "$(podwire get rs go-demo-2-api -o jsonpath='{.status.readyReplicas}')" = 3 ]; }
answers() { python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5).read()' "$1"; }

step podwire status --wait
trap 'podwire delete --ignore-not-found -f "$objects"' EXIT
step podwire apply -f "$objects"
until_ok "three api pods are ready" api_is_ready
address=$(podwire get svc go-demo-2-api -o jsonpath='{.spec.clusterIP}')
port=$(podwire get svc go-demo-2-api -o jsonpath='{.spec.ports[0].nodePort}')
node=$(podwire get node -o jsonpath='{.items[0].status.addresses[0].address}')
pod=$(podwire get pod --no-headers -o=custom-columns=NAME:.metadata.name -l type=api,service=go-demo-2 | tail -1)
until_ok "the ClusterIP answers the node: http://$address:8080" answers "http://$address:8080/demo/hello"
until_ok "the NodePort answers: http://$node:$port" answers "http://$node:$port/demo/hello"
until_ok "a pod resolves go-demo-2-db" podwire exec "$pod" -- getent hosts go-demo-2-db
podwire exec "$pod" -- env | grep -q '^GO_DEMO_2_DB_SERVICE_HOST=' || die "pod $pod has no GO_DEMO_2_DB_SERVICE_HOST"
step podwire sequence go-demo-2-api
echo "smoke: all steps held"
