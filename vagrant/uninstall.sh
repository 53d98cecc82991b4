#!/usr/bin/env bash
# Leave the machine as it was before vagrant/provision.sh: pods, rules, bridge, state, program, unit, configuration, and
# the system packages that were not there before and that nothing else has come to need since. Safe to run again.
#
#   sudo vagrant/uninstall.sh [--keep-state] [--keep-packages]
#     --keep-state      keep /var/lib/podwire (objects, keys, logs) and /etc/podwire for another time
#     --keep-packages   keep the system packages
set -euo pipefail

prefix=/opt/podwire
keep_state="" keep_packages=""

say() { printf 'uninstall: %s\n' "$*"; }
die() { printf 'uninstall: %s\n' "$*" >&2; exit 1; }

stop_service() {
  [ -e /etc/systemd/system/podwire.service ] || return 0
  if [ -d /run/systemd/system ]; then
    say "stopping podwire.service"
    systemctl disable --quiet --now podwire.service
    systemctl reset-failed podwire.service 2>/dev/null || true  # there is nothing to reset, as a rule
  elif command -v systemctl >/dev/null; then
    systemctl disable --quiet podwire.service
  fi
}

# The program itself knows what it has made. Where it is gone, what it made cannot be told from what is others'.
remove_node() {
  if [ -x "$prefix/current/bin/podwire" ]; then
    "$prefix/current/bin/podwire" clean ${keep_state:+--keep-state} ||
      die "not everything could be removed (see above), so the program is kept: mend that, and run this again"
  elif [ -d /var/lib/podwire ] && [ -z "$keep_state" ]; then
    die "$prefix/current is gone but /var/lib/podwire is there: install podwire again, then run this again"
  fi
}

remove_files() {
  say "removing podwire's files"
  rm -f /etc/systemd/system/podwire.service /etc/profile.d/podwire.sh /usr/local/bin/podwire
  rm -f /usr/local/share/bash-completion/completions/podwire /usr/local/share/zsh/site-functions/_podwire
  rm -f /usr/local/share/fish/vendor_completions.d/podwire.fish
  # folders that only provision.sh needed
  for folder in bash-completion/completions bash-completion zsh/site-functions zsh fish/vendor_completions.d fish; do
    rmdir "/usr/local/share/$folder" 2>/dev/null || true  # somebody else uses it
  done
  [ ! -d /run/systemd/system ] || systemctl daemon-reload
  [ -n "$keep_state" ] || rm -rf /etc/podwire /var/lib/podwire
  rm -rf /run/podwire "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/podwire"  # the latter: what the command line remembers
}

# Of the packages that provision.sh added, those that apt would remove as needed by nobody: added_and_unneeded FILE
added_and_unneeded() {
  xargs -r apt-mark -qq auto <"$1" >/dev/null
  LC_ALL=C comm -12 <(LC_ALL=C sort -u "$1") <(
    apt-get -s -o APT::AutoRemove::RecommendsImportant=false -o APT::AutoRemove::SuggestsImportant=false autoremove |
      sed -n 's/^Remv \([^ ]*\).*/\1/p' | LC_ALL=C sort -u
  )
}

remove_packages() {
  local added=$prefix/added-packages present unneeded
  [ -s "$added" ] && [ -z "$keep_packages" ] || return 0
  present=$(mktemp)
  dpkg-query -W -f='${db:Status-Abbrev} ${binary:Package}\n' |
    sed -n "s/^ii  *//; T; s/:$(dpkg --print-architecture)\$//; p" | LC_ALL=C sort |
    LC_ALL=C comm -12 - <(LC_ALL=C sort -u "$added") >"$present"
  mapfile -t unneeded < <(added_and_unneeded "$present")
  rm "$present"
  [ ${#unneeded[@]} -gt 0 ] || return 0
  say "removing ${#unneeded[@]} system packages that came with podwire"
  DEBIAN_FRONTEND=noninteractive apt-get purge -qq -y -o Dpkg::Use-Pty=0 "${unneeded[@]}" >/dev/null
}

main() {
  [ "$(id -u)" = 0 ] || die "root is needed; try: sudo $0 $*"
  for option in "$@"; do
    case "$option" in
      --keep-state) keep_state=yes ;;
      --keep-packages) keep_packages=yes ;;
      *) die "unknown option: $option" ;;
    esac
  done
  stop_service
  remove_node
  remove_files
  remove_packages
  rm -rf "$prefix"
  say "done"
}

main "$@"
