#!/bin/sh
# Makes .venv with what is pinned here. Called by make, from the project's root.
set -eu

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1)." >&2
  exit 1
}

# Debian ships venv and pip apart from Python.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "Python's venv is missing; run: sudo apt-get install python3-venv" >&2
    exit 1
  fi
  echo "Installing python3-venv, which Debian ships apart from Python."
  apt-get update -qq
  apt-get install -y -qq python3-venv
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip="env PIP_QUIET=1 .venv/bin/python -m pip install"
echo "Setting up .venv (a minute or two the first time)."
# The lock is complete, so nothing is to be resolved: newer releases cannot get in the way.
$pip --require-hashes --no-deps -r requirements/dev.txt
$pip --require-hashes --no-deps -r requirements/no-deps.txt
$pip --no-build-isolation --no-deps --editable .
sh requirements/rabbitmq.sh || true # it says what to do; only the Globus Compute tests need it
