#!/usr/bin/env bash
# Installs uv into the folder named by the first argument, with nothing but Python at hand.
set -euo pipefail
target=$1
python=$(command -v python3 || true)
if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Python's venv module is missing. Next step: install the packages python3 and python3-venv, or uv itself." >&2
    exit 1
  fi
  echo "installing python3-venv" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
  python=$(command -v python3)
fi
"$python" -m venv --clear "$target"
"$target/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
"$target/bin/uv" --version >&2
