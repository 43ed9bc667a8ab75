#!/usr/bin/env bash
# mosec and MLServer: a server whose model raises while it is loaded ends with exit status 0.
#
# Seen with mosec 0.9.8 and MLServer 1.7.1 on Python 3.11. A model that raises in its constructor (mosec) or in `load` (MLServer) ends the whole server, with its
# traceback in the log and exit status 0. For whoever supervises them this is a success: `restart: on-failure` (Docker) and `Restart=on-failure` (systemd) start it no
# more, a Kubernetes Job counts as complete, `server && next` goes on. A health check from outside is what shows it.
#
# Needs python3 with venv, and a package index; some hundred MB. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/mosec"
"$work/mosec/bin/pip" install --quiet --disable-pip-version-check mosec==0.9.8
python3 -m venv "$work/mlserver"
"$work/mlserver/bin/pip" install --quiet --disable-pip-version-check mlserver==1.7.1 'uvloop<0.22'

cat >"$work/ports.py" <<'EOF'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(found.getsockname()[1] for found in sockets))
EOF
cat >"$work/refusing.py" <<'EOF'
from mosec import Server, Worker


class Refusing(Worker):
    def __init__(self):
        raise RuntimeError("the model cannot be loaded")

    def forward(self, data):
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Refusing)
    server.run()
EOF
mkdir "$work/model"
cat >"$work/refusing_model.py" <<'EOF'
from mlserver import MLModel


class Refusing(MLModel):
    async def load(self):
        raise RuntimeError("the model cannot be loaded")
EOF
echo '{"name": "model", "implementation": "refusing_model.Refusing"}' >"$work/model/model-settings.json"

read -r http grpc < <(python3 "$work/ports.py")
mosec=0
(cd "$work" && timeout 60 "$work/mosec/bin/python" refusing.py --address 127.0.0.1 --port "$http") >"$work/mosec.log" 2>&1 || mosec=$?
printf '{"host": "127.0.0.1", "http_port": %s, "grpc_port": %s, "metrics_endpoint": null, "parallel_workers": 0}' "$http" "$grpc" >"$work/settings.json"
mlserver=0
(cd "$work" && PYTHONPATH=. timeout 60 "$work/mlserver/bin/mlserver" start .) >"$work/mlserver.log" 2>&1 || mlserver=$?
for name in mosec mlserver; do
	grep --quiet "the model cannot be loaded" "$work/$name.log" || { tail -n 5 "$work/$name.log" >&2; exit 2; }
done
echo "exit status: mosec $mosec, MLServer $mlserver"
if [ "$mosec $mlserver" != "0 0" ]; then
	echo "the behaviour has changed" >&2
	exit 1
fi
