#!/bin/sh
# Writes the lock files beside this script from pyproject.toml. Extra arguments go to uv, e.g. --upgrade-package NAME.
set -eu

lock() {
    target=$1
    shift
    .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make lock" --output-file "requirements/$target" "$@"
}

lock runtime.txt pyproject.toml "$@"
lock dev.txt pyproject.toml --group dev "$@"
lock native.txt --group native "$@"
lock freeze.txt --group freeze "$@"
lock peers.txt --group peers "$@"
