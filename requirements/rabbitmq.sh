#!/bin/sh
# Makes sure that the Globus Compute test stack finds a RabbitMQ, without installing one: its
# Debian packages are extracted below .venv, so nothing is started and no root is needed.
# Called by setup.sh, from the project's root; quick when there is one already.
set -eu

here=${1:-.venv/opt/rabbitmq}
packages=rabbitmq-server

# The first of our copy and the machine's that has what matches.
find_in() {
  for root in "${HPC_FANOUT_RABBITMQ:-$here}" ""; do
    for found in "$root"/$1; do
      [ -e "$found" ] && echo "$found" && return 0
    done
  done
  return 1
}

# Whether Erlang runs, with OpenSSL, and RabbitMQ is there.
works() {
  erlexec=$(find_in 'usr/lib/erlang/erts-*/bin/erlexec') || return 1
  find_in 'usr/lib/rabbitmq/lib/rabbitmq_server-*/plugins' >/dev/null || return 1
  emulator=$(cd "$(dirname "$erlexec")" && pwd)
  libraries=$(printf '%s:' "$PWD/$here"/usr/lib/*-linux-gnu* "$PWD/$here"/lib/*-linux-gnu*)
  ROOTDIR=${emulator%/erts-*} BINDIR=$emulator EMU=beam PROGNAME=erl HOME=${TMPDIR:-/tmp} \
    LD_LIBRARY_PATH=$libraries timeout 60 "$erlexec" -noinput -noshell -boot start_clean \
    -eval 'ok = crypto:start(), halt(0).' >/dev/null 2>&1
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_be_root() {
  [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null
}

# apt's lists may be missing or old, and another apt may be at them.
refresh() {
  may_be_root || return 1
  for _ in 1 2 3; do
    as_root apt-get update -qq -o DPkg::Lock::Timeout=500 && return 0
    sleep 10
  done
  return 1
}

missing() {
  apt-get install -s --no-install-recommends $packages 2>/dev/null | awk '/^Inst/{print $2}'
}

download() {
  names=$(missing)
  [ -n "$names" ] || return 1
  # shellcheck disable=SC2086 # a list of names
  (cd "$1" && apt-get download -qq -o APT::Sandbox::User=root $names)
}

extract() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  download "$work" || { refresh && download "$work"; } || return 1
  rm -rf "$here"
  mkdir -p "$here"
  for package in "$work"/*.deb; do
    dpkg -x "$package" "$here" || return 1
  done
}

works && exit 0
if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then
  echo "Extracting RabbitMQ for the Globus Compute test stack (60 MB, once)."
  extract && works && exit 0
  rm -rf "$here"
  if may_be_root; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
      -o DPkg::Lock::Timeout=500 --no-install-recommends $packages
    works && exit 0
  fi
fi
echo "The Globus Compute tests need RabbitMQ; on Debian run:" \
  "sudo apt-get install --no-install-recommends rabbitmq-server" >&2
exit 1
