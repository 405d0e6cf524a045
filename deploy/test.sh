#!/usr/bin/env bash
# Sets up and runs every check: lint, types, tests. bash deploy/test.sh [pytest arguments]
#
# Tests skip, with the reason, what a machine lacks. As root (a bare machine, a container, CI) the
# system packages of all tests are installed: a broker, PostgreSQL, a sound server without
# hardware, systemd-nspawn. Another user's machine gets the light ones only.
#
#   FIELDSTATION_VENV       where the virtual environment is (default: .venv-test in the clone)
#   FIELDSTATION_PACKAGES   "all" or "light": overrules the rule above; "none" installs nothing

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
. deploy/steps.sh
export LC_ALL=C.UTF-8
venv=$(realpath --canonicalize-missing "${FIELDSTATION_VENV:-.venv-test}")

light=(libportaudio2 mosquitto mosquitto-clients openssl sqlite3)
heavy=(postgresql systemd-container pipewire wireplumber pipewire-pulse pipewire-alsa
    pulseaudio-utils dbus python3-venv)
case ${FIELDSTATION_PACKAGES:-$([ "$(id -u)" -eq 0 ] && echo all || echo light)} in
    all) install_packages "${light[@]}" "${heavy[@]}" || true ;;
    light) install_packages "${light[@]}" || true ;;
    none) say "installing no system packages" ;;
    *) fail "FIELDSTATION_PACKAGES is '$FIELDSTATION_PACKAGES': all, light or none" ;;
esac

python=$(python_with_venv python3 python3.14 python3.13 python3.12 python3.11)
# constraints.txt pins torch: its registry build of the day brings gigabytes of CUDA.
install_clone "$root" cpu,test,train,postgres,parquet "$python" "$venv" \
    --constraint .ci/constraints.txt
# shellcheck source=/dev/null
. "$venv/bin/activate"

say "ruff check"
ruff check
say "ruff format --check"
ruff format --check --quiet || fail "not formatted: run 'ruff format'"
say "mypy"
mypy
say "pytest $*"
# By two processes: many tests wait for something, and some of them for seconds to pass.
pytest --numprocesses auto --maxprocesses 2 --dist loadgroup "$@"
