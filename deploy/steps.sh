# Steps that start.sh, test.sh and install-service.sh share; to be sourced, not run.
# shellcheck shell=bash

say() {
    printf 'fieldstation: %s\n' "$*" >&2
}

fail() {
    say "$*"
    exit 1
}

# Debian leaves these out of an ordinary user's PATH; mosquitto and ldconfig live there.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }
}

is_installed() { # PACKAGE
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints which of the packages are not there, on one line.
missing_packages() { # PACKAGE...
    local package missing=()
    for package; do is_installed "$package" || missing+=("$package"); done
    printf '%s' "${missing[*]}"
}

# Runs apt-get without questions; what it says is shown only where it fails.
apt() { # ARGUMENT...
    local output
    output=$(as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null 2>&1) && return
    printf '%s\n' "$output" >&2
    return 1
}

# Installs Debian packages that are missing; one already there is left as it is.
# Returns 1, having said so, where that cannot be done.
install_packages() { # PACKAGE...
    local missing servers
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    if ! can_install; then
        say "missing, and not ours to install here: as root, apt-get install $missing"
        return 1
    fi
    say "installing system packages: $missing"
    servers=$(servers_among "$missing")
    keep_from_starting "$servers"
    # An installation that was interrupted is finished first: apt-get refuses to go on without.
    as_root dpkg --configure -a </dev/null >/dev/null || true
    apt update || say "the package lists could not be renewed; going on with those there are"
    # shellcheck disable=SC2086  # one word a package
    if ! apt install --no-install-recommends $missing; then
        release "$servers"
        say "apt-get could not install all of: $missing"
        return 1
    fi
    leave_stopped "$servers"
}

# Debian starts a server when it installs its package. The station runs a broker of its own and
# the tests run their own servers, so a system-wide one would only take the port: those that we
# bring are kept from starting (until a reboot by a mask, then by being disabled). Those that
# were there before are not touched.
servers_among() { # PACKAGES, one line
    local package servers=()
    for package in $1; do
        case $package in mosquitto | postgresql) servers+=("$package") ;; esac
    done
    printf '%s' "${servers[*]}"
}

has_systemd() {
    [ -d /run/systemd/system ]
}

keep_from_starting() { # SERVERS
    local server
    has_systemd || return 0
    for server in $1; do as_root systemctl --quiet --runtime mask "$server.service" 2>/dev/null; done
}

release() { # SERVERS
    local server
    has_systemd || return 0
    for server in $1; do as_root systemctl --quiet --runtime unmask "$server.service"; done
}

leave_stopped() { # SERVERS
    local server
    release "$1"
    for server in $1; do
        if has_systemd; then
            as_root systemctl --quiet disable "$server.service" 2>/dev/null || true
        else
            as_root invoke-rc.d --quiet "$server" stop >/dev/null 2>&1 || true
        fi
        say "$server is installed, not started: turn it on with 'systemctl enable --now $server'"
    done
}

# Prints the first interpreter that will do: 3.11 or newer, and 64 bits, as onnxruntime has no
# build for fewer (a 32-bit Raspberry Pi OS may run on a 64-bit kernel, so uname cannot tell).
find_python() { # CANDIDATE...
    local candidate
    for candidate; do
        if "$candidate" -c \
            'import sys; sys.exit(not (sys.version_info >= (3, 11) and sys.maxsize > 2**32))' \
            2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Prints an interpreter that can make virtual environments, having installed what that takes.
python_with_venv() { # CANDIDATE...
    local python version
    command -v python3 >/dev/null || install_packages python3 python3-venv
    python=$(find_python "$@") ||
        fail "no 64-bit Python 3.11 or newer; $(python3 --version 2>&1) is here: install one"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install_packages "python$version-venv" ||
            fail "$python cannot make virtual environments: install python$version-venv"
    fi
    printf '%s' "$python"
}

# Prints what an installation depends on; a change of it makes the next start install again.
fingerprint() { # ROOT EXTRAS PYTHON
    { cat "$1/pyproject.toml" && printf '%s %s %s' "$1" "$2" "$("$3" --version)"; } | sha256sum
}

# A virtual environment that works, where it was made: its scripts hold its path.
is_sound_venv() { # VENV
    grep -qsF "$1" "$1/bin/activate" && "$1/bin/python" -c "import pip" 2>/dev/null
}

# Makes a virtual environment, afresh where an earlier installation was interrupted. It is marked
# until the package is in it.
make_venv() { # PYTHON VENV
    local python=$1 venv=$2 mark=$2/.fieldstation-installing
    if ! is_sound_venv "$venv" || [ -e "$mark" ]; then
        [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] || [ -e "$mark" ] ||
            [ -z "$(ls -A "$venv")" ] ||
            fail "$venv holds something else than a virtual environment: set FIELDSTATION_VENV"
        say "making the virtual environment $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    touch "$mark"
}

# Installs with pip into a virtual environment that make_venv made, and takes its mark away.
pip_install() { # VENV PIP-ARGUMENT...
    local venv=$1
    shift
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "$@" ||
        fail "pip could not install the package: mend what it names above, then run this again"
    rm -f "$venv/.fieldstation-installing"
}

# Installs the package, editable, unless a virtual environment holds this very state already.
install_clone() { # ROOT EXTRAS PYTHON VENV PIP-ARGUMENT...
    local root=$1 extras=$2 python=$3 venv=$4 stamp
    shift 4
    stamp=$(fingerprint "$root" "$extras" "$python")
    if [ "$(cat "$venv/.fieldstation-installed" 2>/dev/null)" = "$stamp" ] &&
        [ ! -e "$venv/.fieldstation-installing" ] && is_sound_venv "$venv"; then
        return 0
    fi
    make_venv "$python" "$venv"
    say "installing fieldstation[$extras] into $venv (the first time takes some minutes)"
    pip_install "$venv" "$@" --editable "${root}[$extras]"
    printf '%s\n' "$stamp" >"$venv/.fieldstation-installed"
}
