#!/usr/bin/env bash
# Make a Debian 12+ or Ubuntu 22.04+ machine a podwire node. Safe to run again: each step looks first.
#
#   sudo vagrant/provision.sh                 system packages, podwire in /opt/podwire, the systemd unit, started
#   sudo vagrant/provision.sh --development   system packages, and an editable podwire with its tests' tools in .venv
#
# ./run uses the second form for its own set-up, so this file is exercised by every test run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=/opt/podwire

# What the node runs: iproute2 to look at it, iptables and conntrack for Services, runc and conmon for containers.
# gcc and the Python headers build python-iptables, which has no binary package on PyPI.
packages=(ca-certificates iproute2 iptables nftables ipset conntrack kmod procps runc conmon gcc libc6-dev)
# What the tests use besides: dig, getent's resolver, shellcheck for this file.
test_packages=(bind9-dnsutils shellcheck git tcpdump)

# What an installation is made of, beside the system: an editable one needs only the first list.
recipe=(pyproject.toml vagrant/provision.sh)
code=(agent netns rules dnsserver examples)

say() { printf 'provision: %s\n' "$*"; }
die() { printf 'provision: %s\n' "$*" >&2; exit 1; }

# Run a command whose output matters only if it fails; every five seconds its latest line shows that it goes on.
quietly() {
  local log shown=$SECONDS line
  log=$(mktemp)
  if "$@" 2>&1 </dev/null | while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    if [ $((SECONDS - shown)) -ge 5 ]; then
      say "  ${line:0:100}"
      shown=$SECONDS
    fi
  done; then
    rm "$log"
  else
    cat "$log" >&2
    rm "$log"
    return 1
  fi
}

have_packages() { dpkg-query -W -f='${Status}\n' "$@" 2>/dev/null | grep -c '^install ok installed$' | grep -qx "$#"; }

ensure_packages() {
  have_packages "$@" && return
  export DEBIAN_FRONTEND=noninteractive
  say "fetching the lists of system packages"
  quietly apt-get update || die "apt-get update failed; is the network up?"
  say "installing system packages: $*"
  quietly apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@" || die "apt-get could not install: $*"
}

# The first Python that is new enough: the caller's choice, python3, or a versioned one (Ubuntu 22.04 has python3.11 beside 3.10).
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if [ -z "$candidate" ] || ! command -v "$candidate" >/dev/null; then continue; fi
    "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    # python-iptables is compiled, so the headers must belong to this very Python
    "$candidate" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || continue
    command -v "$candidate"
    return
  done
  return 1
}

# The system packages given, and a Python.
ensure_system() {
  if find_python >/dev/null; then
    ensure_packages "$@"
    return
  fi
  ensure_packages "$@" python3 python3-venv python3-dev
  find_python >/dev/null && return
  ensure_packages python3.11 python3.11-venv python3.11-dev
  find_python >/dev/null || die "no Python 3.11 or later with venv and headers was found or could be installed"
}

# One line that changes when a file of this checkout does: fingerprint PATH ...
fingerprint() {
  (cd "$here" && find "$@" -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
}

# Install podwire from this checkout into a virtual environment: ensure_venv FOLDER REQUIREMENT STAMP [PIP OPTION ...]
ensure_venv() {
  local folder=$1 requirement=$2 python stamp
  python=$(find_python)
  stamp=$("$python" --version; printf '%s\n' "$3")
  shift 3
  [ -x "$folder/bin/podwire" ] && [ "$(cat "$folder/.provisioned" 2>/dev/null)" = "$stamp" ] && return
  say "installing podwire and the Python libraries it needs into $folder"
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  # --use-pep517: older versions of pip would build python-iptables in a way that they themselves call deprecated
  quietly "$folder/bin/python" -m pip install --disable-pip-version-check --root-user-action=ignore --progress-bar off \
    --use-pep517 "$@" "$requirement" || die "pip could not install podwire; is the package index reachable?"
  printf '%s\n' "$stamp" >"$folder/.provisioned"
}

ensure_service() {
  if [ ! -d /run/systemd/system ]; then
    say "done. No systemd runs here, so no service was installed; to start a node: podwire up --node-netns lab --detach"
    return
  fi
  install -m 0644 "$here/vagrant/podwire.service" /etc/systemd/system/podwire.service
  systemctl daemon-reload
  systemctl enable --quiet podwire.service
  say "starting podwire.service"
  systemctl restart podwire.service || { journalctl -u podwire.service -n 30 --no-pager >&2; die "podwire.service did not start"; }
  say "done: podwire status; podwire get pods"
}

ensure_environment() {
  ln -sfn "$prefix/bin/podwire" /usr/local/bin/podwire
  [ -f /etc/podwire/config.yaml ] || install -D -m 0644 "$here/vagrant/config.yaml" /etc/podwire/config.yaml
  printf 'export KUBECONFIG=/var/lib/podwire/kubeconfig\n' >/etc/profile.d/podwire.sh
}

main() {
  [ "$(id -u)" = 0 ] || die "root is needed to install packages; try: sudo $0 $*"
  command -v apt-get >/dev/null || die "this needs Debian 12+ or Ubuntu 22.04+ (no apt-get here)"
  case "${1:-}" in
    --development)
      ensure_system "${packages[@]}" "${test_packages[@]}"
      ensure_venv "$here/.venv" "${here}[dev]" "$(fingerprint "${recipe[@]}")" --editable
      ;;
    "")
      ensure_system "${packages[@]}"
      ensure_venv "$prefix" "$here" "$(fingerprint "${recipe[@]}" "${code[@]}")" --upgrade
      ensure_environment
      ensure_service
      ;;
    *) die "unknown option: $1" ;;
  esac
}

main "$@"
