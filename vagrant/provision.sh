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

say() { printf 'provision: %s\n' "$*"; }
die() { printf 'provision: %s\n' "$*" >&2; exit 1; }

have_packages() { dpkg-query -W -f='${Status}\n' "$@" 2>/dev/null | grep -c '^install ok installed$' | grep -qx "$#"; }

ensure_packages() {
  have_packages "$@" && return
  say "installing system packages: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || die "apt-get update failed; is the network up?"
  apt-get install -qq -y --no-install-recommends "$@" >/dev/null || die "apt-get could not install: $*"
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

ensure_python() {
  find_python >/dev/null && return
  ensure_packages python3 python3-venv python3-dev
  find_python >/dev/null && return
  ensure_packages python3.11 python3.11-venv python3.11-dev
  find_python >/dev/null || die "no Python 3.11 or later with venv and headers was found or could be installed"
}

# Install podwire from this checkout into a virtual environment: ensure_venv FOLDER REQUIREMENT [PIP OPTION ...]
ensure_venv() {
  local folder=$1 requirement=$2 python stamp
  shift 2
  python=$(find_python)
  stamp=$("$python" --version; cat "$here/pyproject.toml" "${BASH_SOURCE[0]}")
  [ -x "$folder/bin/podwire" ] && [ "$(cat "$folder/.provisioned" 2>/dev/null)" = "$stamp" ] && return
  say "installing podwire and its libraries into $folder"
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@" "$requirement" \
    || die "pip could not install podwire; is the package index reachable?"
  printf '%s\n' "$stamp" >"$folder/.provisioned"
}

ensure_service() {
  if [ ! -d /run/systemd/system ]; then
    say "no systemd here: the unit is not installed"
    return
  fi
  install -m 0644 "$here/vagrant/podwire.service" /etc/systemd/system/podwire.service
  systemctl daemon-reload
  systemctl enable --quiet podwire.service
  say "starting podwire.service"
  systemctl restart podwire.service || { journalctl -u podwire.service -n 30 --no-pager >&2; die "podwire.service did not start"; }
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
      ensure_packages "${packages[@]}" "${test_packages[@]}"
      ensure_python
      ensure_venv "$here/.venv" "${here}[dev]" --editable
      ;;
    "")
      ensure_packages "${packages[@]}"
      ensure_python
      ensure_venv "$prefix" "$here" --upgrade
      ensure_environment
      ensure_service
      say "done: podwire status; podwire get pods"
      ;;
    *) die "unknown option: $1" ;;
  esac
}

main "$@"
