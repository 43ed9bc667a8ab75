# shellcheck shell=bash
# What every script here shares. Each sources this file first; the caller's name heads its messages.
# shellcheck disable=SC2034 # what is set here is used there
set -euo pipefail

bootstrap_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project_dir=$(cd "$bootstrap_dir/../.." && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# The first argument says what is wrong, each further one is a line about what to do.
die() {
    say "$1"
    shift
    [ $# -eq 0 ] || printf '    %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

has_apt() { have apt-get && have dpkg; }

# apt_install PACKAGE...: quietly; what apt printed is shown where it failed. Package lists are often stale or absent on a fresh machine.
apt_install() {
    local log status=0
    log=$(mktemp)
    {
        # A third-party source that fails must not stop what the others can give.
        apt-get -qq -o DPkg::Lock::Timeout=300 update || echo "apt-get update had errors; going on with the lists that there are"
        # RUNLEVEL=1: where no service manager runs, packages must not start daemons by themselves.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=${RUNLEVEL:-1} \
            apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" || status=$?
    } >"$log" 2>&1
    [ "$status" -eq 0 ] || tail -n 20 "$log" >&2
    rm -f "$log"
    return "$status"
}

# The certificates that this host's user trusts, where they say so; empty otherwise.
host_ca_bundle() {
    local name
    for name in ORCHESTRATOR_CA_BUNDLE SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE PIP_CERT; do
        [ -n "${!name:-}" ] || continue
        [ -r "${!name}" ] || die "$name names ${!name}, which cannot be read" "unset $name, or let it name a file of PEM certificates"
        printf '%s\n' "${!name}"
        return
    done
}

# start_time PID: when the process began, in clock ticks since boot; with the pid it names one process for good. Fails if there is none.
start_time() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    read -ra fields <<<"${stat##*) }" # the name in parentheses may hold spaces; the line's 22nd field is the 20th after it
    printf '%s\n' "${fields[19]}"
}
