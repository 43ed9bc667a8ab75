# shellcheck shell=bash
# What the engine's scripts share: where they ask, and how they remember the one daemon that was started from here.
# shellcheck disable=SC2034 # what is set here is used there

engine_socket=/var/run/docker.sock
engine_log=/var/log/plugin-orchestrator-engine.log
engine_record=/run/plugin-orchestrator-engine # "PID START_TIME" of our dockerd; gone after a reboot, as the daemon is

# Without DOCKER_HOST the default socket is meant, not the context that a docker client may be set to: the orchestrator asks there too.
ask_engine() { DOCKER_HOST=${DOCKER_HOST:-unix://$engine_socket} timeout 10 docker "$@"; }

engine_answers() { have docker && ask_engine version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Waits until the engine answers, the process PID is gone (fails) or SECONDS are over (fails).
wait_for_engine() {
    local until=$((SECONDS + $1)) pid=$2
    while ! engine_answers; do
        [ -d "/proc/$pid" ] || return 1
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.5
    done
}

record_engine() { printf '%s %s\n' "$1" "$(start_time "$1")" >"$engine_record"; }

# The pid of the dockerd that was started from here, if that very process still runs.
our_engine_pid() {
    local pid began
    read -r pid began 2>/dev/null <"$engine_record" || return 1
    [ "$(start_time "$pid")" = "$began" ] && printf '%s\n' "$pid"
}
