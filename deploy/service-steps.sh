# Steps that install-service.sh and install-hub.sh share; to be sourced after steps.sh, not run.
# shellcheck shell=bash

readonly code=/opt/fieldstation
readonly state=/var/lib/fieldstation
readonly command=/usr/local/bin/fieldstation
readonly units=/etc/systemd/system

must_be_root() { # SCRIPT
    [ "$(id -u)" -eq 0 ] || fail "run as root: sudo bash deploy/$1"
}

make_user() {
    id fieldstation >/dev/null 2>&1 && return
    say "making the system user fieldstation"
    useradd --system --user-group --groups audio --no-create-home --home-dir "$state" \
        --shell /usr/sbin/nologin fieldstation
}

# Prints what the code is installed from; where that is unchanged, it is not installed again.
code_stamp() { # ROOT PYTHON
    (
        cd "$1" || exit
        find pyproject.toml README.md LICENSE deploy/requirements.lock fieldstation trainer \
            -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        "$2" --version
    ) | sha256sum
}

# The service cannot look into home folders, so an interpreter from one (pyenv, conda) is no use.
# What is not in the lock, with its hash, is not installed; our own wheel is built by what is.
install_code() { # ROOT
    local python stamp
    python=$(python_with_venv /usr/bin/python3 /usr/bin/python3.{14,13,12,11} \
        /usr/local/bin/python3)
    stamp=$(code_stamp "$1" "$python")
    if [ "$(cat "$code/.installed" 2>/dev/null)" != "$stamp" ] || ! is_sound_venv "$code/.venv"; then
        mkdir -p "$code"
        rm -f "$code/.installed"
        make_venv "$python" "$code/.venv"
        say "installing fieldstation into $code/.venv"
        pip_install "$code/.venv" --require-hashes --requirement "$1/deploy/requirements.lock"
        pip_install "$code/.venv" --no-deps --no-build-isolation --force-reinstall "$1"
        install -m 644 "$1/README.md" "$1/LICENSE" "$code"
        printf '%s\n' "$stamp" >"$code/.installed"
    fi
    [ -e "$command" ] || ln -s "$code/.venv/bin/fieldstation" "$command"
}

# Code goes with the last service that runs it.
remove_code() {
    compgen -G "$units/fieldstation*.service" >/dev/null && return
    rm -rf "$code"
    [ ! -L "$command" ] || rm "$command"
}

# Puts settings from standard input where the service may read them; existing ones are kept.
install_settings() { # FILE
    [ -e "$1" ] && return
    say "putting settings into $1"
    install -d -m 750 -g fieldstation "${1%/*}"
    install -m 640 -g fieldstation /dev/stdin "$1"
}

install_unit() { # ROOT NAME
    say "installing $units/$2.service"
    install -m 644 "$1/systemd/$2.service" "$units/$2.service"
}

start_unit() { # NAME
    systemctl --quiet enable "$1.service"
    if ! has_systemd; then
        say "systemd does not run here: $1 starts at the next boot"
        return
    fi
    systemctl daemon-reload
    say "starting $1"
    if ! systemctl restart "$1.service"; then
        journalctl --unit "$1" --lines 10 --no-pager --output cat >&2
        fail "$1 did not start; its last lines are above"
    fi
    say "running. See it: journalctl -fu $1"
}

remove_unit() { # NAME
    if has_systemd; then systemctl --quiet stop "$1.service" 2>/dev/null || true; fi
    systemctl --quiet disable "$1.service" 2>/dev/null || true
    rm -f "$units/$1.service"
    if has_systemd; then systemctl daemon-reload; fi
}
