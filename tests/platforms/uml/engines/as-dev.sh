# shellcheck shell=bash
# Sourced by rootless engines' scripts: the user's service manager, which runs without a session.
run=/run/user/1000
loginctl enable-linger dev
until [ -S "$run/bus" ]; do sleep 0.5; done
as_dev() { runuser --login dev --command "export XDG_RUNTIME_DIR=$run DBUS_SESSION_BUS_ADDRESS=unix:path=$run/bus; $1"; }
