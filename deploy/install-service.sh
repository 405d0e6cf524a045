#!/usr/bin/env bash
# Installs the station as a systemd service: sudo bash deploy/install-service.sh [--uninstall]
#
#   user      fieldstation, in group audio, without a login
#   code      /opt/fieldstation (a copy; run this again after an update)
#   settings  /etc/fieldstation/fieldstation.toml (an existing one is kept)
#   state     /var/lib/fieldstation: databases, clips, the station's key
#   unit      /etc/systemd/system/fieldstation.service
#
# Safe to repeat. Where systemd does not run (an image being built) the service starts at the next
# boot. --uninstall removes code and unit; settings and state stay.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/deploy/steps.sh"

readonly code=/opt/fieldstation
readonly settings=/etc/fieldstation/fieldstation.toml
readonly state=/var/lib/fieldstation
readonly unit=/etc/systemd/system/fieldstation.service
readonly command=/usr/local/bin/fieldstation

uninstall() {
    if has_systemd; then systemctl --quiet stop fieldstation.service 2>/dev/null || true; fi
    systemctl --quiet disable fieldstation.service 2>/dev/null || true
    rm -rf "$unit" "$code"
    [ ! -L "$command" ] || rm "$command"
    if has_systemd; then systemctl daemon-reload; fi
    say "removed. Kept: ${settings%/*} and $state; 'rm -r' them and 'deluser fieldstation' for good"
}

make_user() {
    id fieldstation >/dev/null 2>&1 && return
    say "making the system user fieldstation"
    useradd --system --user-group --groups audio --no-create-home --home-dir "$state" \
        --shell /usr/sbin/nologin fieldstation
}

# The service cannot look into home folders, so an interpreter from one (pyenv, conda) is no use.
install_code() {
    local python
    python=$(python_with_venv /usr/bin/python3 /usr/bin/python3.{14,13,12,11} \
        /usr/local/bin/python3)
    mkdir -p "$code"
    make_venv "$python" "$code/.venv"
    say "installing fieldstation[cpu] into $code/.venv"
    pip_install "$code/.venv" "${root}[cpu]"
    install -m 644 "$root/README.md" "$root/LICENSE" "$code"
    [ -e "$command" ] || ln -s "$code/.venv/bin/fieldstation" "$command"
}

install_settings() {
    [ -e "$settings" ] && return
    say "putting example settings into $settings"
    install -d -m 750 -g fieldstation "${settings%/*}"
    install -m 640 -g fieldstation "$root/deploy/fieldstation.toml" "$settings"
}

start() {
    systemctl --quiet enable fieldstation.service
    if ! has_systemd; then
        say "systemd does not run here: the station starts at the next boot"
        return
    fi
    systemctl daemon-reload
    say "starting the station"
    if ! systemctl restart fieldstation.service; then
        journalctl --unit fieldstation --lines 10 --no-pager --output cat >&2
        fail "the station did not start; its last lines are above"
    fi
    say "running. See it: journalctl -fu fieldstation; sudo fieldstation detections"
}

[ "$(id -u)" -eq 0 ] || fail "run as root: sudo bash deploy/install-service.sh"
case ${1:-} in
    --uninstall)
        uninstall
        exit
        ;;
    "") ;;
    *) fail "unknown argument '$1': none, or --uninstall" ;;
esac
# No group or world bits of the caller's umask reach what the service must read.
umask 022
install_packages libportaudio2 mosquitto || fail "the service needs libportaudio2 and mosquitto"
make_user
install_code
install_settings
say "installing $unit"
install -m 644 "$root/systemd/fieldstation.service" "$unit"
start
