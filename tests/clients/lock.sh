#!/bin/sh
# Writes the lock files of the clients' programs anew, each beside the file that says what is wanted.
set -eu

for wanted in tests/clients/programs/*/requirements.in; do
    .venv/bin/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --custom-compile-command "make clients-lock" --output-file "${wanted%.in}.txt" "$wanted"
done
for wanted in tests/clients/programs/*/package.json; do
    # Those that it names, and so what they need, in their newest versions.
    names=$(node -p "Object.keys(require('./$wanted').dependencies).map((name) => name + '@latest').join(' ')")
    (cd "$(dirname "$wanted")" && rm -f package-lock.json && npm install --package-lock-only --save-exact --ignore-scripts --silent $names)
done
