#!/usr/bin/env bash
# Make a Debian 12+ or Ubuntu 22.04+ machine a podwire node. Safe to run again: each step looks first. Run it from a
# newer checkout to upgrade: pods and rules stay while the service restarts.
#
#   sudo vagrant/provision.sh                 system packages, podwire in /opt/podwire, the systemd unit, started
#   sudo vagrant/provision.sh --offline DIR   the same from DIR/packages/*.deb and DIR/wheels/*.whl, without any network
#   sudo vagrant/provision.sh --download DIR  fill DIR, on a machine like the one that has no network
#   sudo vagrant/provision.sh --development   system packages, and an editable podwire with its tests' tools in .venv
#
# Where no systemd runs (a chroot, the image of a machine that has yet to boot) the service is enabled, not started.
# PODWIRE_NODE_IP, if an interface has that address, becomes node_ip of a new /etc/podwire/config.yaml.
#
# Each version lies in a folder of its own, /opt/podwire/releases/ID, and the link /opt/podwire/current is turned to it
# when it is complete: a power cut in the middle of an upgrade leaves the old version, whole. What pods use is kept.
#
# ./run uses the last form for its own set-up, so this file is exercised by every test run.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=/opt/podwire
offline=""  # the DIR of --offline

# What the node runs: iproute2 to look at it, iptables and conntrack for Services, runc and conmon for containers.
packages=(ca-certificates iproute2 iptables nftables ipset conntrack kmod procps runc conmon)
# gcc and the Python headers build python-iptables, which has no binary package on PyPI.
build_packages=(gcc libc6-dev)
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

# By name; those of another architecture with it, as apt-get calls them.
installed_packages() {
  dpkg-query -W -f='${db:Status-Abbrev} ${binary:Package}\n' |
    sed -n "s/^ii  *//; T; s/:$(dpkg --print-architecture)\$//; p" | LC_ALL=C sort
}

# Note which packages this machine did not have before, so that uninstall.sh can take them away: noting COMMAND ...
noting() {
  local before
  before=$(installed_packages)
  "$@"
  mkdir -p "$prefix"
  LC_ALL=C comm -13 <(printf '%s\n' "$before") <(installed_packages) >>"$prefix/added-packages"
}

ensure_packages() {
  have_packages "$@" && return
  export DEBIAN_FRONTEND=noninteractive
  if [ -n "$offline" ]; then
    install_brought "$@"
    return
  fi
  say "fetching the lists of system packages"
  quietly apt-get update || die "apt-get update failed; is the network up?"
  say "installing system packages: $*"
  quietly apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
    "$@" || die "apt-get could not install: $*"
}

# The packages of DIR/packages that this machine does not have in any version: install_brought NEEDED ...
install_brought() {
  local deb name missing=()
  for deb in "$offline"/packages/*.deb; do
    [ -e "$deb" ] || die "missing packages: $* (and $offline/packages holds none)"
    name=$(dpkg-deb -f "$deb" Package)
    have_packages "$name" || missing+=("$(realpath "$deb")")
  done
  say "installing ${#missing[@]} system packages from $offline/packages"
  # without sources, nothing else can be asked for; --no-download would refuse to read local files too
  quietly apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o Dir::Etc::SourceList=/dev/null \
    -o Dir::Etc::SourceParts=/dev/null "${missing[@]}" ||
    die "could not install the packages of $offline/packages; do they belong to this version of the system?"
  have_packages "$@" || die "not all of these are in $offline/packages: $*"
}

# Whether python-iptables must be compiled here: not if it was brought along.
must_build() { ! compgen -G "${offline:-/nowhere}/wheels/python_iptables-*.whl" >/dev/null; }

# The first Python that is new enough: the caller's choice, python3, or a versioned one (Ubuntu 22.04 has python3.11 beside 3.10).
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if [ -z "$candidate" ] || ! command -v "$candidate" >/dev/null; then continue; fi
    "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    # python-iptables is compiled, so the headers must belong to this very Python
    ! must_build || "$candidate" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || continue
    command -v "$candidate"
    return
  done
  return 1
}

# The system packages given, and a Python.
ensure_system() {
  local headers=()
  if must_build; then
    set -- "$@" "${build_packages[@]}"
    headers=(python3-dev)
  fi
  if find_python >/dev/null; then
    ensure_packages "$@"
    return
  fi
  ensure_packages "$@" python3 python3-venv "${headers[@]}"
  find_python >/dev/null && return
  ensure_packages python3.11 python3.11-venv "${headers[@]/python3/python3.11}"
  find_python >/dev/null || die "no Python 3.11 or later with venv and headers was found or could be installed"
}

# One line that changes when a file of this checkout does: fingerprint PATH ...
fingerprint() {
  (cd "$here" && find "$@" -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
}

# Install podwire from this checkout into a virtual environment: ensure_venv FOLDER PIP REQUIREMENT STAMP [OPTION ...]
# PIP is the virtual environment whose pip does it, FOLDER itself or another: to make one costs as much as all the rest.
ensure_venv() {
  local folder=$1 pip=$2 requirement=$3 python stamp
  python=$(find_python)
  stamp=$("$python" --version; printf '%s\n' "$4")
  shift 4
  [ -x "$folder/bin/podwire" ] && [ "$(cat "$folder/.provisioned" 2>/dev/null)" = "$stamp" ] && return
  say "installing podwire and the Python libraries it needs into $folder"
  ensure_pip "$python" "$pip"
  [ -x "$folder/bin/python" ] || "$python" -m venv --without-pip "$folder"
  # pip as a program (the folder of the package): the Python that runs it is the one that it installs for.
  # --use-pep517: older versions of pip would build python-iptables in a way that they themselves call deprecated
  quietly "$folder/bin/python" "$pip"/lib/python3*/site-packages/pip install --disable-pip-version-check --no-compile \
    --root-user-action=ignore --progress-bar off --use-pep517 "$@" "$requirement" ||
    die "pip could not install podwire; is the package index reachable?"
  # with all cores; what cannot be compiled fails when it is imported, if ever
  "$folder/bin/python" -m compileall -qq -j 0 "$folder/lib" || true
  sync -f "$folder"  # before it counts as complete
  printf '%s\n' "$stamp" >"$folder/.provisioned"
}

# A virtual environment with pip, for this very Python: ensure_pip PYTHON FOLDER
ensure_pip() {
  local stamp
  stamp=$("$1" -c 'import sys; print(sys.version, sys.executable)')
  [ "$(cat "$2/.pip" 2>/dev/null)" = "$stamp" ] && return
  rm -rf "$2"  # it is of another Python, or was cut short
  quietly "$1" -m venv "$2" || die "cannot make a virtual environment in $2"
  sync -f "$2"
  printf '%s\n' "$stamp" >"$2/.pip"
}

# podwire of this checkout, complete and current.
ensure_release() {
  local stamp release options=()
  stamp=$("$(find_python)" --version; fingerprint "${recipe[@]}" "${code[@]}")
  release=$prefix/releases/$(printf '%s' "$stamp" | sha256sum | cut -c 1-12)
  [ "$(readlink "$prefix/current" 2>/dev/null)" = "releases/${release##*/}" ] && [ -x "$release/bin/podwire" ] && return
  [ -f "$release/.provisioned" ] || rm -rf "$release"  # an earlier run was cut short
  [ -z "$offline" ] || options=(--no-index --find-links "$(realpath "$offline")/wheels")
  mkdir -p "$prefix/releases"
  ensure_venv "$release" "$prefix/pip" "$here" "$(fingerprint "${recipe[@]}" "${code[@]}")" "${options[@]}"
  sync -f "$release"  # its last file too, before anything refers to it
  turn_link "releases/${release##*/}" "$prefix/current"
  restart_needed=yes
}

# Replace a link in one step: turn_link TARGET LINK
turn_link() {
  ln -sfn "$1" "$2.new"
  mv -fT "$2.new" "$2"
}

# Versions that are neither current nor used by a pod (stand-ins run from there: their mounts name it) or a process.
remove_old_releases() {
  local release
  for release in "$prefix"/releases/*; do
    [ "$release" != "$(realpath "$prefix/current")" ] || continue
    # (the pattern in a file: grep's own command line is among those looked at)
    if cat /proc/[0-9]*/mountinfo /proc/[0-9]*/cmdline 2>/dev/null |
      grep -qaFf <(printf '/releases/%s/\n' "${release##*/}"); then
      say "keeping ${release##*/}, which running pods use"
    else
      rm -rf "$release"
    fi
  done
}

# Write standard input to a file unless it is the same already; then it must be readable by all: ensure_file PATH
ensure_file() {
  local fresh
  fresh=$(mktemp)
  cat >"$fresh"
  if ! cmp -s "$fresh" "$1"; then
    install -D -m 0644 "$fresh" "$1"
    changed=yes
  fi
  rm "$fresh"
}

ensure_environment() {
  mkdir -p /usr/local/bin
  # earlier versions had their virtual environment right here
  [ -L "$prefix/bin" ] || (cd "$prefix" && rm -rf bin include lib lib64 share pyvenv.cfg .provisioned)
  turn_link current/bin "$prefix/bin"
  turn_link "$prefix/bin/podwire" /usr/local/bin/podwire
  if [ ! -f /etc/podwire/config.yaml ]; then
    install -D -m 0644 "$here/vagrant/config.yaml" /etc/podwire/config.yaml
    if [ -n "${PODWIRE_NODE_IP:-}" ] && ip -o address show | grep -qF " $PODWIRE_NODE_IP/"; then
      printf 'node_ip: %s\n' "$PODWIRE_NODE_IP" >>/etc/podwire/config.yaml
    fi
  fi
  # root's kubectl finds the node; for others the file is not readable, and nothing is said to them
  ensure_file /etc/profile.d/podwire.sh <<'PROFILE'
if [ -z "${KUBECONFIG:-}" ] && [ -r /var/lib/podwire/kubeconfig ]; then
  export KUBECONFIG=/var/lib/podwire/kubeconfig
fi
PROFILE
  ensure_completion bash /usr/local/share/bash-completion/completions/podwire
  ensure_completion zsh /usr/local/share/zsh/site-functions/_podwire
  ensure_completion fish /usr/local/share/fish/vendor_completions.d/podwire.fish
}

# ensure_completion SHELL FILE; what is written is click's own
ensure_completion() { _PODWIRE_COMPLETE=$1_source "$prefix/bin/podwire" | ensure_file "$2"; }

ensure_service() {
  if ! command -v systemctl >/dev/null; then
    say "done. There is no systemd here, so no service was installed; a node: podwire up --node-netns lab --detach"
    return
  fi
  changed=""
  ensure_file /etc/systemd/system/podwire.service <"$here/vagrant/podwire.service"
  if [ ! -d /run/systemd/system ]; then
    systemctl enable --quiet podwire.service
    say "done. No systemd runs here: podwire.service is enabled and starts with the next boot"
    return
  fi
  if [ -n "$changed" ]; then
    systemctl daemon-reload
    restart_needed=yes
  fi
  systemctl enable --quiet podwire.service
  if [ -n "$restart_needed" ] || ! systemctl is-active --quiet podwire.service; then
    say "starting podwire.service"
    systemctl restart podwire.service || explain_failure  # returns when the node is ready
  fi
  say "done: podwire status; podwire get pods"
}

explain_failure() {
  systemctl status podwire.service --no-pager --lines=0 >&2 || true  # its exit code says what we know already
  journalctl -u podwire.service -n 30 --no-pager >&2
  die "podwire.service did not start; what it said is above, and 'podwire check' looks for what is in its way"
}

# What --offline needs, for machines with this version of the system and this Python.
download() {
  local folder
  mkdir -p "$1/packages/partial" "$1/wheels"
  folder=$(realpath "$1")
  say "fetching system packages into $folder/packages"
  quietly apt-get update || die "apt-get update failed; is the network up?"
  quietly apt-get install -q -y --no-install-recommends --download-only -o Dir::Cache::archives="$folder/packages" \
    "${packages[@]}" python3 python3-venv || die "apt-get could not fetch the packages"
  rmdir "$folder/packages/partial"
  # wheels that were made elsewhere will do, and spare this machine the compiler
  compgen -G "$folder/wheels/python_iptables-*.whl" >/dev/null || download_wheels "$folder"
  say "done; on the other machine: sudo vagrant/provision.sh --offline $1"
}

download_wheels() {
  ensure_system "${packages[@]}"
  say "fetching Python libraries into $1/wheels"
  ensure_pip "$(find_python)" "$1/.venv"
  quietly "$1/.venv/bin/python" -m pip wheel --disable-pip-version-check --progress-bar off --use-pep517 \
    --wheel-dir "$1/wheels" "$here" hatchling || die "pip could not fetch the libraries; is the network up?"
  rm -rf "$1/.venv" "$1"/wheels/podwire-*.whl  # podwire itself is built from the checkout
}

install_node() {
  restart_needed=""
  changed=""
  noting ensure_system "${packages[@]}"
  ensure_release
  ensure_environment
  ensure_service
  remove_old_releases
}

folder_of() {
  [ -n "${2:-}" ] || die "$1 needs a folder: sudo $0 $1 DIR"
  printf '%s' "$2"
}

main() {
  [ "$(id -u)" = 0 ] || die "root is needed to install packages; try: sudo $0 $*"
  command -v apt-get >/dev/null || die "this needs Debian 12+ or Ubuntu 22.04+ (no apt-get here)"
  case "${1:-}" in
    --development)
      ensure_system "${packages[@]}" "${test_packages[@]}"
      ensure_venv "$here/.venv" "$here/.venv" "${here}[dev]" "$(fingerprint "${recipe[@]}")" --editable
      ;;
    --download) download "$(folder_of "$@")" ;;
    --offline)
      offline=$(folder_of "$@")
      [ -d "$offline/wheels" ] || die "there is no folder $offline/wheels; '$0 --download DIR' makes it, elsewhere"
      install_node
      ;;
    "") install_node ;;
    *) die "unknown option: $1" ;;
  esac
}

main "$@"
