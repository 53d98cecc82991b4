#!/usr/bin/env bash
# After `vagrant up`: does the node do what the document says? Run it on the node: sudo /vagrant/vagrant/smoke.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export KUBECONFIG=/var/lib/podwire/kubeconfig

step() { printf '== %s\n' "$*"; "$@"; }

step podwire status --wait
step podwire apply -f "$here/examples/go-demo-2.yml"
trap 'podwire delete --ignore-not-found -f "$here/examples/go-demo-2.yml"' EXIT
for _ in $(seq 60); do
  ready=$(podwire get rs go-demo-2-api -o jsonpath='{.status.readyReplicas}')
  [ "${ready:-0}" = 3 ] && break
  sleep 0.5
done
[ "${ready:-0}" = 3 ] || { podwire get pods; echo "smoke: the api pods are not ready" >&2; exit 1; }
address=$(podwire get svc go-demo-2-api -o jsonpath='{.spec.clusterIP}')
port=$(podwire get svc go-demo-2-api -o jsonpath='{.spec.ports[0].nodePort}')
node=$(podwire get node -o jsonpath='{.items[0].status.addresses[0].address}')
for url in "http://$address:8080/demo/hello" "http://$node:$port/demo/hello"; do
  python3 -c 'import sys, urllib.request; print(sys.argv[1], urllib.request.urlopen(sys.argv[1], timeout=5).status)' "$url"
done
pod=$(podwire get pod --no-headers -o=custom-columns=NAME:.metadata.name -l type=api,service=go-demo-2 | tail -1)
step podwire exec "$pod" -- getent hosts go-demo-2-db
podwire exec "$pod" env | grep -q '^GO_DEMO_2_DB_SERVICE_HOST='
echo "smoke: all steps held"
