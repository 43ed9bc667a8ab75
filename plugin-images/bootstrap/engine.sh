# shellcheck shell=bash
# Shared by the engine's scripts: the engine's address, and the record of the daemon that they started.
# shellcheck disable=SC2034 # the scripts use these variables

engine_socket=/var/run/docker.sock
engine_log=/var/log/plugin-orchestrator-engine.log
engine_record=/run/plugin-orchestrator-engine # "PID START_TIME" of our dockerd; a reboot ends the daemon and clears /run

# Without DOCKER_HOST it is the default socket, as for the orchestrator, and not the context that a docker client may have.
call_engine() { DOCKER_HOST=${DOCKER_HOST:-unix://$engine_socket} timeout 10 docker "$@"; }

engine_answers() { have docker && call_engine version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# wait_for_engine SECONDS PID: until the engine answers. Fails when the process PID has ended, or after SECONDS.
wait_for_engine() {
    local until=$((SECONDS + $1)) pid=$2
    while ! engine_answers; do
        [ -d "/proc/$pid" ] || return 1
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.5
    done
}

record_engine() { printf '%s %s\n' "$1" "$(start_time "$1")" >"$engine_record"; }

# The pid of the dockerd that was started from here, if that process still runs.
our_engine_pid() {
    local pid started
    read -r pid started 2>/dev/null <"$engine_record" || return 1
    [ "$(start_time "$pid")" = "$started" ] && printf '%s\n' "$pid"
}
