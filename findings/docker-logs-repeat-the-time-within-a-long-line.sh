#!/usr/bin/env bash
# Docker Engine: `logs --timestamps` puts a time not only before a line but within one that is longer than 16 KiB, before each further 16 KiB of it.
#
# Seen with Docker Engine 20.10.24 (Debian 12's docker.io 20.10.24+dfsg1-1+deb12u1), logging driver json-file. A container prints one line of 40,000
# letters x: without times the log is that line. With times it has one line feed and three times; two of them stand between letters, so that
# whoever cuts off the first word of a line has text in his program's output that it never printed.
#
# Needs root, Linux, apt on Debian 12 and unshare (util-linux). Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail
version=20.10.24+dfsg1-1+deb12u1
time='[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z '

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
apt-get -qq download "docker.io=$exact" containerd runc tini busybox-static 2>/dev/null
for package in ./*.deb; do dpkg-deb -x "$package" root; done
export PATH=$work/root/usr/sbin:$work/root/usr/bin:$PATH DOCKER_HOST=unix://$work/s

unshare --net dockerd --host "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
    --iptables=false --ip6tables=false >>"$work/log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
    docker version >/dev/null 2>&1 && break
    sleep 0.2
done

mkdir -p image/bin
cp root/bin/busybox image/bin/
tar -C image -c . | docker import - busybox >/dev/null
docker run --name long --network none --log-driver json-file busybox /bin/busybox sh -c \
    'busybox head -c 40000 /dev/zero | busybox tr "\0" x; echo' >/dev/null || { tail -n 20 "$work/log" >&2; exit 2; }
plain=$(docker logs long | wc -lc | xargs)
lines=$(docker logs --timestamps long | wc -l)
times=$(docker logs --timestamps long | grep -oE "$time" | wc -l)
within=$(docker logs --timestamps long | grep -oE "x$time" | wc -l)
echo "without times: $plain (lines, bytes); with times: $lines line, $times times, $within of them within it"
[[ $plain == "1 40001" && $lines == 1 && $times == 3 && $within == 2 ]] || { echo "the behaviour has changed" >&2; exit 1; }
