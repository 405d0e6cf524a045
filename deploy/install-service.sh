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
. "$root/deploy/service-steps.sh"

readonly settings=/etc/fieldstation/fieldstation.toml

must_be_root install-service.sh
case ${1:-} in
    --uninstall)
        remove_unit fieldstation-worker
        remove_unit fieldstation
        remove_code
        say "removed. Kept: ${settings%/*} and $state; 'rm -r' them and 'deluser fieldstation'" \
            "for good"
        exit
        ;;
    "") ;;
    *) fail "unknown argument '$1': none, or --uninstall" ;;
esac
# No group or world bits of the caller's umask reach what the service must read.
umask 022
install_packages libportaudio2 mosquitto || fail "the service needs libportaudio2 and mosquitto"
make_user
install_code "$root"
install_settings "$settings" <"$root/deploy/fieldstation.toml"
install_unit "$root" fieldstation
install_unit "$root" fieldstation-worker
start_unit fieldstation
start_unit fieldstation-worker
say "ask it: sudo fieldstation detections"
