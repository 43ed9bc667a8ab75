#!/usr/bin/env bash
# docker-py: a docker context that it does not find is no error but the default engine, and it finds none where there is no config.json.
#
# Seen with docker 7.2.0 on Python 3.11, by ContextAPI.kwargs_from_context(), which is to mirror the docker command line:
#   config.json names a context that does not exist     {}     (docker: `context "gone": context not found`, and it exits with 1)
#   DOCKER_CONTEXT names one that exists, no config.json {}     (docker uses it: `docker context create` writes no config.json)
#   the same with a config.json of `{}`                  {"base_url": "unix:///run/lab.sock"}
# A client made from {} speaks to /var/run/docker.sock: containers are started, and removed, on another engine than the one that was named. It looks for the
# folder `contexts` beside the config.json that it found, and where it found none, in the working directory.
#
# Needs python3 with venv, and a package index. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check docker==7.2.0

# A context as `docker context create lab --docker host=unix:///run/lab.sock` leaves it.
id=$(printf lab | sha256sum | cut -d ' ' -f 1)
mkdir -p "$work/config/contexts/meta/$id"
echo '{"Name":"lab","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///run/lab.sock","SkipTLSVerify":false}}}' \
	>"$work/config/contexts/meta/$id/meta.json"

look() {
	(cd "$work" && env -u DOCKER_HOST -u DOCKER_CONTEXT HOME="$work" DOCKER_CONFIG="$work/config" "$@" venv/bin/python -c \
		'from docker.context import ContextAPI; print(ContextAPI.kwargs_from_context())')
}

without=$(look DOCKER_CONTEXT=lab)
echo '{}' >"$work/config/config.json"
with=$(look DOCKER_CONTEXT=lab)
echo '{"currentContext":"gone"}' >"$work/config/config.json"
unknown=$(look)
printf 'unknown: %s\nno config.json: %s\nempty config.json: %s\n' "$unknown" "$without" "$with"
if [ "$unknown" != '{}' ] || [ "$without" != '{}' ] || [ "$with" != "{'base_url': 'unix:///run/lab.sock'}" ]; then
	echo "the behaviour has changed" >&2
	exit 1
fi
