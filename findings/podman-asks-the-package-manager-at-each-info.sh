#!/usr/bin/env bash
# Podman: each request for /info or /version runs the host's package manager for the names of the packages of its helpers.
#
# Seen with Podman 4.3.1 (Debian 12's podman 4.3.1+ds1-8+deb12u1), by its service's Docker API: one `GET /version` starts dpkg-query (or rpm,
# pacman, …) for conmon and the OCI runtime, and so does one `GET /info`; the second request starts as many as the first, since nothing is
# remembered. Each reads the whole database of packages: on a loaded machine such a request takes seconds, where `GET /_ping` takes
# milliseconds. docker-py asks for /version at the first call of each client (version="auto"), and many tools for /info as a health check.
#
# Needs root, apt on Debian 12, curl and unshare (util-linux). Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d /tmp/finding-XXXXXX) # a short path: a socket lies in it
service=
end() {
    if [ -n "$service" ]; then kill "$service" 2>/dev/null && wait "$service" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap end EXIT

cd "$work"
version=4.3.1+ds1
exact=$(apt-cache madison podman | awk -v version="$version" 'index($3, version) == 1 { print $3; exit }')
[ -n "$exact" ] || { echo "apt does not offer podman $version: run this on Debian 12, after apt-get update" >&2; exit 2; }
packages=(conmon crun golang-github-containers-common golang-github-containers-image libgpgme11 libassuan0 libsubid4 libyajl2 libseccomp2
    libdevmapper1.02.1 libglib2.0-0)
apt-get -qq download "podman=$exact" "${packages[@]}" 2>/dev/null
mkdir root upper etc-work storage count
for package in ./*.deb; do dpkg-deb -x "$package" root; done

# Stands before dpkg-query: counts, then becomes it.
cat >count/dpkg-query <<END
#!/bin/sh
echo "\$*" >>$work/asked
exec $work/real-dpkg-query "\$@"
END
chmod +x count/dpkg-query
cp /usr/bin/dpkg-query real-dpkg-query

cat >serve <<END
set -e
mount -t overlay overlay -o lowerdir=$work/root/usr:/usr /usr
mount --bind $work/count/dpkg-query /usr/bin/dpkg-query
mount -t overlay overlay -o lowerdir=$work/root/etc:/etc,upperdir=$work/upper,workdir=$work/etc-work /etc
mount -t tmpfs tmpfs /dev/shm
exec podman --root $work/storage --runroot $work/run --tmpdir $work/tmp --cgroup-manager cgroupfs --events-backend file \\
    --storage-driver vfs system service --time=0 unix://$work/s
END
unshare --mount --net bash serve >log 2>&1 &
service=$!
ask() { curl -sf --max-time 60 --unix-socket s "http://podman/v1.41$1" >/dev/null; }
for _ in $(seq 150); do
    if [ -S s ] && curl -sf --max-time 10 --unix-socket s http://podman/_ping >/dev/null; then break; fi
    [ -d "/proc/$service" ] || { tail -n 5 log >&2; exit 2; }
    sleep 0.2
done

count() {
    : >asked
    "$@" || { tail -n 5 log >&2; exit 2; }
    wc -l <asked
}
ping=$(count ask /_ping)
first=$(count ask /version)
second=$(count ask /version)
info=$(count ask /info)
echo "runs of dpkg-query: $ping by /_ping, $first by the first /version, $second by the second, $info by /info"
if [ "$ping" -ne 0 ] || [ "$first" -lt 2 ] || [ "$second" -lt 2 ] || [ "$info" -lt 2 ]; then
    echo "the behaviour has changed" >&2
    exit 1
fi
