#!/usr/bin/env bash
# Docker Engine: on the first start with an empty data root, the default bridge's IPAM settings have no Gateway; from the second on they have one.
#
# Seen with Docker Engine 20.10.24 (Debian 12's docker.io 20.10.24+dfsg1-1+deb12u1). `docker network inspect bridge` on valid, default settings:
#   first start:   [{"Subnet":"172.17.0.0/16"}]
#   second start:  [{"Subnet":"172.17.0.0/16","Gateway":"172.17.0.1"}]
# Who reads IPAM.Config[0].Gateway works on every machine but a new one. A container's NetworkSettings.Networks.bridge.Gateway has it from
# the first start on.
#
# Needs root, Linux, apt on Debian 12 and unshare (util-linux). Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail
version=20.10.24+dfsg1-1+deb12u1

work=$(mktemp -d /tmp/finding-XXXXXX) # a short path: sockets lie in it
daemon=
end() {
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap end EXIT

cd "$work"
chmod 755 "$work"
# Debian's rebuilds of a version end in +bN.
exact=$(apt-cache madison docker.io | awk -v version="$version" '{ plain = $3; sub(/\+b[0-9]+$/, "", plain); if (plain == version) { print $3; exit } }')
[ -n "$exact" ] || { echo "apt does not offer docker.io $version: run this on Debian 12, after apt-get update" >&2; exit 2; }
apt-get -qq download "docker.io=$exact" containerd runc tini 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" root; done
export PATH=$work/root/usr/sbin:$work/root/usr/bin:$PATH

start() {
    # A network namespace of its own: in the host's, a second engine would meddle with the first one's bridge.
    unshare --net dockerd --host "unix://$work/s" --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
        --iptables=false --ip6tables=false >>"$work/log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do
        docker --host "unix://$work/s" version >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 20 "$work/log" >&2
    exit 2
}
stop() {
    kill "$daemon"
    wait "$daemon" || true
    daemon=
}
config() { docker --host "unix://$work/s" network inspect bridge --format '{{json .IPAM.Config}}'; }

start
first=$(config)
stop
start
second=$(config)
stop
echo "first start:  $first"
echo "second start: $second"
[[ $first != *Gateway* && $second == *Gateway* ]] || { echo "the behaviour has changed" >&2; exit 1; }
