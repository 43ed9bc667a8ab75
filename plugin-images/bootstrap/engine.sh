# shellcheck shell=bash
# Shared by the engine's scripts: the engine's address, and the record of the daemon that they started.
# shellcheck disable=SC2034 # the scripts use these variables

engine_socket=/var/run/docker.sock
engine_log=/var/log/plugin-orchestrator-engine.log
engine_record=/run/plugin-orchestrator-engine # "PID START_TIME" of our dockerd; a reboot ends the daemon and clears /run

# By DOCKER_HOST, else by docker's context, else at the default socket, as for the orchestrator.
call_engine() { timeout 10 docker "$@"; }

engine_answers() { have docker && call_engine version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The docker context that names the engine; fails where none but the default does. Also without a docker client.
engine_context() {
    local name=${DOCKER_CONTEXT:-} config=${DOCKER_CONFIG:-${HOME:-/root}/.docker}/config.json
    [ -n "${DOCKER_HOST:-}" ] && return 1
    [ -n "$name" ] || name=$(sed -n 's/.*"currentContext"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$config" 2>/dev/null | head -n 1)
    [ -n "$name" ] && [ "$name" != default ] && printf '%s\n' "$name"
}

# wait_for_engine SECONDS PID: until the engine answers. Fails when the process PID has ended, or after SECONDS.
wait_for_engine() {
    local until=$((SECONDS + $1)) pid=$2
    while ! engine_answers; do
        [ -d "/proc/$pid" ] || return 1
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.5
    done
}

# remedy LOG: what to do about a daemon that ended with these messages.
remedy() {
    case $1 in
    *"Devices cgroup isn't mounted"* | *cgroup*"not mounted"*)
        echo "the control groups are not mounted: install cgroupfs-mount, or boot this machine with systemd" ;;
    *"no space left"*) echo "the disk is full: free space in /var/lib/docker" ;;
    *"configure the Docker daemon with file"* | *"daemon.json"*)
        echo "/etc/docker/daemon.json is wrong: correct what the log names, or move the file away" ;;
    *iptables* | *nftables*)
        echo "iptables does not work here: try 'update-alternatives --set iptables /usr/sbin/iptables-legacy', or load the kernel's nf_tables module" ;;
    *"ermission denied"* | *"peration not permitted"*)
        echo "root lacks rights on this machine: if it is a container, start it with --privileged and a volume at /var/lib/docker" ;;
    *containerd.sock* | *"start containerd"*) echo "containerd does not run: read its log (journalctl -u containerd) and start it" ;;
    *) echo "fix what the log names, then run make again; or start an engine yourself" ;;
    esac
}

record_engine() { printf '%s %s\n' "$1" "$(start_time "$1")" >"$engine_record"; }

# The pid of the dockerd that was started from here, if that process still runs.
our_engine_pid() {
    local pid started
    read -r pid started 2>/dev/null <"$engine_record" || return 1
    [ "$(start_time "$pid")" = "$started" ] && printf '%s\n' "$pid"
}
