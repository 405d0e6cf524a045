#!/usr/bin/env bash
# Installs a hub for many stations: sudo bash deploy/install-hub.sh NAME... | --uninstall
#
# NAME is how stations reach this machine: host names and addresses, all for its certificate.
#
#   broker    Mosquitto with TLS on port 8883: /etc/mosquitto/conf.d/fieldstation.conf, its
#             certificates and users in /etc/mosquitto/fieldstation
#   logger    fieldstation-log.service: user fieldstation, code /opt/fieldstation, settings
#             /etc/fieldstation/hub.toml (an existing one is kept), log in /var/lib/fieldstation/hub
#
# Then `sudo bash deploy/mosquitto/users.sh add-station NAME` for each station (docs/hub.md). Safe to
# repeat, for instance with more names. --uninstall removes code, unit and the broker's settings;
# certificates, users, the hub's settings and its log stay.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/deploy/steps.sh"
. "$root/deploy/service-steps.sh"

readonly broker=/etc/mosquitto/fieldstation
readonly broker_settings=/etc/mosquitto/conf.d/fieldstation.conf
readonly settings=/etc/fieldstation/hub.toml
readonly password=/etc/fieldstation/hub-password

hub_settings() {
    cat <<'TOML'
# The hub's logger. deploy/fieldstation.toml in the clone shows every setting.
[mqtt]
url = "mqtts://localhost:8883"
username = "hub"
# A credential of fieldstation-log.service, which takes it from /etc/fieldstation/hub-password
password_file = "hub-password"
ca_file = "/etc/mosquitto/fieldstation/ca.crt"

[log]
# Or PostgreSQL, for instance "postgresql:///birds" with a role `fieldstation` (peer authentication)
database = "sqlite:////var/lib/fieldstation/hub/log.db"
TOML
}

users() {
    bash "$root/deploy/mosquitto/users.sh" "$@"
}

# The hub's own password goes to where only root and systemd can read it.
install_password() {
    users list | grep -q '^hub hub$' || users add-hub hub
    [ ! -e "$broker/out/hub/password" ] ||
        install -m 600 "$broker/out/hub/password" "$password"
    rm -rf "$broker/out/hub"
    [ -s "$password" ] || fail "$password is missing: 'sudo bash deploy/mosquitto/users.sh renew" \
        "hub', then run this again"
}

start_broker() {
    systemctl --quiet enable mosquitto.service
    if has_systemd; then
        systemctl restart mosquitto.service ||
            fail "mosquitto did not start: journalctl -u mosquitto says why"
    fi
}

must_be_root install-hub.sh
case ${1:-} in
    --uninstall)
        remove_unit fieldstation-log
        remove_code
        rm -f "$broker_settings"
        if has_systemd; then systemctl --quiet stop mosquitto.service || true; fi
        systemctl --quiet disable mosquitto.service 2>/dev/null || true
        say "removed. Kept: $broker, ${settings%/*} and $state/hub"
        exit
        ;;
    "" | -*) fail "name this machine as stations reach it: install-hub.sh hub.example 192.0.2.7" ;;
esac
umask 022
install_packages mosquitto openssl || fail "a hub needs mosquitto and openssl"
make_user
bash "$root/deploy/make-certificates.sh" "$broker" "$@"
install_settings "$settings" < <(hub_settings)
install_password
install -m 644 "$root/deploy/mosquitto/fieldstation.conf" "$broker_settings"
start_broker
install_code "$root"
install_unit "$root" fieldstation-log
start_unit fieldstation-log
say "next, for each station: sudo bash deploy/mosquitto/users.sh add-station NAME"
