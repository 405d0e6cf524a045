#!/usr/bin/env bash
# Renews deploy/requirements.lock: bash deploy/renew-requirements.sh [--upgrade]
#
# The lock names every package of an installed station or hub (extras cpu and postgres) with its
# version and the hashes of its files, for every Python from 3.11 and every machine at once. Without
# --upgrade, only what pyproject.toml asks for anew is changed. pip-audit then looks every version up
# among known vulnerabilities; where it cannot reach them, that is said and the script exits 1.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/deploy/steps.sh"
cd "$root"
[ $# -eq 0 ] || [ "$*" = --upgrade ] || fail "unknown argument '$*': none, or --upgrade"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/pip" --quiet --disable-pip-version-check install uv pip-audit ||
    fail "pip could not install uv and pip-audit"
# uv does not know pip's variable for a folder of packages.
UV_FIND_LINKS=${PIP_FIND_LINKS:-} "$tools/bin/uv" --quiet pip compile "$@" \
    --universal --python-version 3.11 --extra cpu --extra postgres --generate-hashes --no-header \
    --no-emit-find-links --output-file deploy/requirements.lock \
    pyproject.toml deploy/requirements.in
say "deploy/requirements.lock is up to date"
audit=$("$tools/bin/pip-audit" --disable-pip --require-hashes -r deploy/requirements.lock 2>&1) ||
    fail "pip-audit: $audit"
case $audit in
    *"could not be audited"*) fail "not audited: the advisories cannot be reached from here" ;;
    *) say "$audit" ;;
esac
