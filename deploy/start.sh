#!/usr/bin/env bash
# Sets up a field station beside this clone and starts it: bash deploy/start.sh [--demo | ...]
#
# The first run installs what is missing (libportaudio2 and mosquitto through apt-get, the package
# into a virtual environment); later runs only start the station. Safe to interrupt and repeat.
# Arguments go to `fieldstation run`.
#
#   FIELDSTATION_VENV   where the virtual environment is (default: .venv in the clone)

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/deploy/steps.sh"
venv=$(realpath --canonicalize-missing "${FIELDSTATION_VENV:-$root/.venv}")

# The station itself says what it cannot do without them, so a machine without apt-get goes on.
install_packages libportaudio2 mosquitto || true
python=$(python_with_venv python3 python3.14 python3.13 python3.12 python3.11)
install_clone "$root" cpu "$python" "$venv"
say "starting the station: $venv/bin/fieldstation run $*"
exec "$venv/bin/fieldstation" run "$@"
