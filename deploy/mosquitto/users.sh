#!/usr/bin/env bash
# Says who may use a hub's broker, and what for:
#
#   sudo bash deploy/mosquitto/users.sh add-station NAME    writes below fieldstation/NAME only
#   sudo bash deploy/mosquitto/users.sh add-reader NAME     reads everything, writes nothing
#   sudo bash deploy/mosquitto/users.sh add-hub NAME        reads everything; receipts and pictures
#   sudo bash deploy/mosquitto/users.sh renew NAME          a new password; the old one is void
#   sudo bash deploy/mosquitto/users.sh revoke NAME         out, at once
#   sudo bash deploy/mosquitto/users.sh list
#
# What a new user needs (password, ca.crt, settings) is put into a folder of its name to be moved
# to where it is used; the broker keeps a hash of the password only. Passwords are made here and
# stand on no command line.
#
#   FIELDSTATION_HUB   the folder of the broker's files (default: /etc/mosquitto/fieldstation)
#   FIELDSTATION_URL   how stations reach the broker (default: the first name in its certificate)

set -euo pipefail
umask 077
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

readonly hub=${FIELDSTATION_HUB:-/etc/mosquitto/fieldstation}
readonly roles=$hub/roles users=$hub/users access=$hub/access

say() {
    printf 'fieldstation: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# A name is a user and a level of a topic, so it must be the same as both; `fieldstation` itself
# makes the level of a station's name by the same rule (docs/wire.md).
check_name() { # NAME
    if ! [[ $1 =~ ^[[:alnum:]_][[:alnum:]_.-]{0,62}$ ]] || [[ $1 == *- ]] ||
        [ "$(printf %s "$1" | wc -c)" -gt 64 ]; then
        fail "'$1' is no name for a user: letters, digits, dot, hyphen, underscore; at most 63"
    fi
}

role_of() { # NAME
    awk -v name="$1" '$1 == name { print $2 }' "$roles"
}

must_be_known() { # NAME
    [ -n "$(role_of "$1")" ] || fail "there is no user $1: see 'users.sh list'"
}

# Replaces a file by what comes on standard input, in one step, readable by the broker.
put() { # FILE
    cat >"$work/new"
    if [ "$(id -u)" -eq 0 ] && id mosquitto >/dev/null 2>&1; then chown mosquitto: "$work/new"; fi
    sync "$work/new"
    mv "$work/new" "$1"
}

topics_of() { # NAME ROLE
    case $2 in
        station) printf 'topic readwrite fieldstation/%s/#\n' "$1" ;;
        reader) printf 'topic read fieldstation/#\n' ;;
        hub)
            printf 'topic read fieldstation/#\n'
            printf 'topic write fieldstation/+/%s\n' logged 'image/#'
            ;;
    esac
}

write_access() {
    local name role
    {
        printf '# Written by deploy/mosquitto/users.sh: who is not named here may do nothing.\n'
        while read -r name role; do
            printf '\nuser %s\n' "$name"
            topics_of "$name" "$role"
        done <"$roles"
    } | put "$access"
}

# Prints the line of a user with a password's hash. Given to mosquitto_passwd in a file: what
# stands on a command line, every user of the machine can read.
hashed() { # NAME PASSWORD
    printf '%s:%s\n' "$1" "$2" >"$work/hashed"
    mosquitto_passwd -U "$work/hashed" >/dev/null || fail "mosquitto_passwd failed"
    cat "$work/hashed"
}

others() { # NAME
    awk -F: -v name="$1" '$1 != name' "$users"
}

set_password() { # NAME
    local password
    password=$(openssl rand -hex 24)
    hashed "$1" "$password" >"$work/line"
    others "$1" | cat - "$work/line" | put "$users"
    hand_out "$1" "$password"
}

broker_url() {
    local name
    name=$(head -c 300 "$hub/server.crt.names" 2>/dev/null | cut -d, -f1 | cut -d: -f2-)
    case $name in *:*) name="[$name]" ;; esac
    printf '%s' "${FIELDSTATION_URL:-mqtts://${name:-localhost}:8883}"
}

# Makes the folder that goes to the new user's machine.
hand_out() { # NAME PASSWORD
    local folder=$hub/out/$1
    mkdir -p "$folder"
    printf '%s\n' "$2" >"$folder/password"
    cp "$hub/ca.crt" "$folder/ca.crt"
    settings "$1" "$(role_of "$1")" >"$folder/fieldstation.toml"
    say "$folder holds the password of $1, ca.crt and settings: move it to where it is used, for" \
        "nobody else to read (docs/hub.md)"
}

# A station's files go to /etc/fieldstation; others use theirs in the folder itself.
settings() { # NAME ROLE
    local where=""
    if [ "$2" = station ]; then
        where=/etc/fieldstation/
        printf '[station]\nname = "%s"\n\n' "$1"
    fi
    printf '[mqtt]\nurl = "%s"\nusername = "%s"\n' "$(broker_url)" "$1"
    printf 'password_file = "%spassword"\nca_file = "%sca.crt"\n' "$where" "$where"
    if [ "$2" = station ]; then
        # By the broker's access list nobody but the hub and the station itself can write a receipt.
        printf 'trust = "any"\n\n[log]\nenabled = false\n'
    fi
}

add() { # NAME ROLE
    check_name "$1"
    [ -z "$(role_of "$1")" ] || fail "there is a user $1 already: 'users.sh renew $1' gives a new" \
        "password, 'users.sh revoke $1' removes it"
    printf '%s %s\n' "$1" "$2" | cat "$roles" - | sort | put "$roles"
    write_access
    set_password "$1"
}

revoke() { # NAME
    must_be_known "$1"
    others "$1" | put "$users"
    awk -v name="$1" '$1 != name' "$roles" | put "$roles"
    write_access
    rm -rf "${hub:?}/out/$1"
    say "$1 is out"
}

# Mosquitto reads both files again at SIGHUP, and ends the connections of who is not in them.
reload() {
    [ "$hub" = /etc/mosquitto/fieldstation ] && [ -d /run/systemd/system ] || return 0
    systemctl --quiet is-active mosquitto.service || return 0
    systemctl reload mosquitto.service || fail "mosquitto was not told: systemctl restart mosquitto"
}

[ -s "$hub/ca.crt" ] || fail "$hub has no ca.crt: deploy/make-certificates.sh makes it"
command -v mosquitto_passwd >/dev/null || fail "mosquitto_passwd is missing: apt-get install mosquitto"
exec 9>"$hub/.lock"
flock 9
work=$(mktemp -d "$hub/.new-XXXXXX")
trap 'rm -rf "$work"' EXIT
for file in "$roles" "$users"; do [ -e "$file" ] || put "$file" </dev/null; done
[ -e "$access" ] || write_access
case "${1:-} $#" in
    "add-station 2" | "add-reader 2" | "add-hub 2") add "$2" "${1#add-}" ;;
    "renew 2") must_be_known "$2" && set_password "$2" ;;
    "revoke 2") revoke "$2" ;;
    "list 1") cat "$roles" && exit ;;
    *) fail "usage: users.sh add-station|add-reader|add-hub|renew|revoke NAME, or list" ;;
esac
reload
