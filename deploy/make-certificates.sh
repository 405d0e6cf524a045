#!/usr/bin/env bash
# Makes the certificates of a hub's broker, signed by an authority of our own:
#
#   bash deploy/make-certificates.sh FOLDER NAME...           the broker's; NAME is how stations
#                                                             reach it: host names and addresses
#   bash deploy/make-certificates.sh FOLDER --client NAME     one for a station to show
#
#   FOLDER/authority/    the authority; made once, never replaced. Its key signs all others: keep
#                        a copy of the folder elsewhere, and take it off the hub if you can
#   FOLDER/ca.crt        what every station gets ([mqtt] ca_file)
#   FOLDER/server.crt, server.key       the broker's
#   FOLDER/clients/NAME.crt, NAME.key   a station's ([mqtt] certificate_file, key_file)
#
# Safe to repeat: a certificate is made anew where it is missing, does not fit (other names, another
# key or authority), or ends within 30 days. Every key is readable by its owner alone; as root, the
# broker's belongs to the user mosquitto.

set -euo pipefail
umask 077
export LC_ALL=C

readonly authority_days=7305 certificate_days=1826 renewed_before_s=$((30 * 86400))

say() {
    printf 'fieldstation: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

quietly() {
    local said
    said=$("$@" 2>&1) || fail "$1 failed: $said"
}

# Prints a subject alternative name: DNS:hub.example or IP:192.0.2.7.
alternative_name() { # NAME
    if [[ $1 =~ ^[0-9.]+$ || $1 == *:* ]]; then printf 'IP:%s' "$1"; else printf 'DNS:%s' "$1"; fi
}

check_name() { # NAME
    [[ $1 =~ ^[0-9A-Za-z:]([0-9A-Za-z.:_-]{0,251}[0-9A-Za-z_:])?$ ]] ||
        fail "'$1' is no host name or address: letters, digits, dots and hyphens"
}

first_name() { # DNS:NAME,...
    local first=${1%%,*}
    printf '%s' "${first#*:}"
}

key_fits() { # CERTIFICATE KEY
    [ "$(openssl x509 -in "$1" -noout -pubkey 2>/dev/null)" = \
        "$(openssl pkey -in "$2" -pubout 2>/dev/null || echo none)" ]
}

# The folder appears whole or not at all, and a rename onto one that is there fails.
make_authority() {
    local new=$work/authority
    [ ! -e "$folder/authority" ] || return 0
    say "making the authority $folder/authority"
    mkdir "$new"
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
        -keyout "$new/ca.key" -out "$new/ca.crt" -days "$authority_days" \
        -subj "/O=fieldstation/CN=fieldstation authority $(openssl rand -hex 4)" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
    quietly mv --no-target-directory "$new" "$folder/authority"
}

check_authority() {
    local file
    for file in ca.crt ca.key; do
        [ -s "$folder/authority/$file" ] || fail "$folder/authority/$file is missing: put it back" \
            "from your copy; without it nothing can be signed. For a new authority, which every" \
            "station must be given, move $folder/authority away"
    done
    key_fits "$folder/authority/ca.crt" "$folder/authority/ca.key" ||
        fail "$folder/authority: ca.key is not the key of ca.crt: put both back from your copy"
    openssl x509 -in "$folder/authority/ca.crt" -noout -checkend 0 >/dev/null ||
        fail "$folder/authority/ca.crt has expired: move $folder/authority away for a new one," \
            "which every station must be given"
}

is_sound() { # CERTIFICATE KEY NAMES
    [ -s "$1" ] && [ -s "$2" ] && key_fits "$1" "$2" &&
        openssl verify -CAfile "$folder/authority/ca.crt" "$1" >/dev/null 2>&1 &&
        openssl x509 -in "$1" -noout -checkend "$renewed_before_s" >/dev/null &&
        [ "$(cat "$1.names" 2>/dev/null)" = "$3" ]
}

# Makes CERTIFICATE and KEY unless they are sound. A new key first: with an old certificate it is
# seen not to fit, and the next run makes both anew.
make_certificate() { # CERTIFICATE KEY NAMES USAGE
    local certificate=$1 key=$2 names=$3 usage=$4 days
    if is_sound "$certificate" "$key" "$names"; then
        say "$certificate is sound until $(openssl x509 -in "$certificate" -noout -enddate |
            cut -d= -f2)"
        return
    fi
    check_authority
    days=$(days_left)
    quietly openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 \
        -keyout "$work/key" -out "$work/request" -subj "/O=fieldstation/CN=$(first_name "$names")"
    printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
        "extendedKeyUsage=$usage" "subjectAltName=$names" >"$work/extensions"
    quietly openssl x509 -req -in "$work/request" -sha256 -days "$days" \
        -CA "$folder/authority/ca.crt" -CAkey "$folder/authority/ca.key" \
        -set_serial "0x$(openssl rand -hex 16)" -extfile "$work/extensions" -out "$work/certificate"
    printf '%s' "$names" >"$work/names"
    chmod 644 "$work/certificate"
    own_as_broker "$work/key" "$usage"
    mv "$work/key" "$key"
    mv "$work/names" "$certificate.names"
    mv "$work/certificate" "$certificate"
    say "made $certificate for $names"
}

# No certificate outlives its authority.
days_left() {
    local end
    end=$(date -d "$(openssl x509 -in "$folder/authority/ca.crt" -noout -enddate | cut -d= -f2)" +%s)
    local left=$(((end - $(date +%s)) / 86400))
    printf '%s' "$((left < certificate_days ? left : certificate_days))"
}

own_as_broker() { # KEY USAGE
    if [ "$2" = serverAuth ] && [ "$(id -u)" -eq 0 ] && id mosquitto >/dev/null 2>&1; then
        chown mosquitto: "$1"
    fi
}

[ $# -ge 2 ] || fail "usage: make-certificates.sh FOLDER NAME... | FOLDER --client NAME"
command -v openssl >/dev/null || fail "openssl is not installed: apt-get install openssl"
folder=$1
shift
mkdir -p "$folder"
chmod 755 "$folder"
exec 9>"$folder/.lock"
flock 9
work=$(mktemp -d "$folder/.new-XXXXXX")
trap 'rm -rf "$work"' EXIT
if [ "$1" = --client ]; then
    [ $# -eq 2 ] || fail "usage: make-certificates.sh FOLDER --client NAME"
    check_name "$2"
    make_authority
    mkdir -p "$folder/clients"
    make_certificate "$folder/clients/$2.crt" "$folder/clients/$2.key" "DNS:$2" clientAuth
else
    names="" separator=""
    for name in "$@" localhost 127.0.0.1; do
        check_name "$name"
        name=$(alternative_name "$name")
        case ,$names, in *",$name,"*) continue ;; esac
        names+=$separator$name separator=,
    done
    make_authority
    make_certificate "$folder/server.crt" "$folder/server.key" "$names" serverAuth
fi
if ! cmp --silent "$folder/authority/ca.crt" "$folder/ca.crt"; then
    install -m 644 "$folder/authority/ca.crt" "$folder/ca.crt"
fi
