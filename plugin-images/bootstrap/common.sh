# shellcheck shell=bash
# Sourced first by every script here; messages begin with the script's name.
# shellcheck disable=SC2034 # the scripts use these variables
set -euo pipefail

bootstrap_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project_dir=$(cd "$bootstrap_dir/../.." && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die WHAT_IS_WRONG WHAT_TO_DO...: one line for each argument; exits.
die() {
    say "$1"
    shift
    [ $# -eq 0 ] || printf '    %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

has_apt() { have apt-get && have dpkg; }

# apt_install PACKAGE...: quiet unless it fails. Updates the package lists first: they are often stale or absent on a fresh machine.
apt_install() {
    local log status=0
    log=$(mktemp)
    {
        # A third-party source that fails must not stop the installation from the others.
        apt-get -qq -o DPkg::Lock::Timeout=300 update || echo "apt-get update had errors; continuing with the available lists"
        # RUNLEVEL=1: without a service manager, packages must not start daemons by themselves.
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=${RUNLEVEL:-1} \
            apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@" || status=$?
    } >"$log" 2>&1
    [ "$status" -eq 0 ] || tail -n 20 "$log" >&2
    rm -f "$log"
    return "$status"
}

# The first mirror that this host's apt uses for a suite (bookworm, bookworm-security); empty if it uses none.
mirror_of() {
    # shellcheck disable=SC2016 # the placeholders are apt's
    apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$1" '$1 == suite && $2 == "main" && !found { print $3; found = 1 }'
}

# The CA bundle that an environment variable names; empty if none does.
host_ca_bundle() {
    local name
    for name in ORCHESTRATOR_CA_BUNDLE SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE PIP_CERT; do
        [ -n "${!name:-}" ] || continue
        [ -r "${!name}" ] || die "$name names ${!name}, which cannot be read" "unset $name, or set it to a file of PEM certificates"
        printf '%s\n' "${!name}"
        return
    done
}

# start_time PID: the process's start, in clock ticks since boot; pid and start time identify a process. Fails without such a process.
start_time() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    read -ra fields <<<"${stat##*) }" # the name in parentheses may hold spaces; the line's 22nd field is the 20th after it
    printf '%s\n' "${fields[19]}"
}
