#!/bin/sh
# Makes .venv with exactly what requirements/dev.txt pins, and shimmy itself in place; then touches the file named by $1.
set -eu

suitable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if suitable "$candidate"; then echo "$candidate"; return; fi
    done
    echo "shimmy build: Python 3.11 or newer is needed; ${PYTHON:-python3} is not ($(${PYTHON:-python3} --version 2>&1))." >&2
    echo "Name one that is: make PYTHON=/path/to/python3 ..." >&2
    exit 1
}

if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "shimmy build: this Python has no venv module. On Debian or Ubuntu: sudo apt install python3-venv" >&2
        exit 1
    fi
    echo "shimmy build: making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
echo "shimmy build: installing the packages that requirements/dev.txt pins"
.venv/bin/python -m pip install --quiet --require-hashes -r requirements/dev.txt
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
rm -f .venv/made-*
touch "$1"
