#!/usr/bin/env bash
# MLServer: with worker processes `infer_stream` calls the model's `predict`, once; `predict_stream` is never called, and nothing says so.
#
# Seen with MLServer 1.7.1 on Python 3.11. `parallel_workers` is 1 by default. The same model, the same request, POST /v2/models/both/infer_stream:
#   parallel_workers 0: two events, from predict_stream
#   parallel_workers 1: one event, from predict, status 200
# The object that stands for a model in a worker (ParallelModel) forwards `predict` and inherits the rest from MLModel, whose predict_stream yields what predict returns.
# A stream so arrives all at once and after the last item, which a caller takes for a slow model. (It streams at all only with `gzip_enabled: false`, and does not start
# with uvloop 0.22, hence the pin.)
#
# Needs python3 with venv, and a package index; some hundred MB. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d)
server=
cleanup() {
	if [ -n "$server" ]; then
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	rm -rf "$work"
}
trap cleanup EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check mlserver==1.7.1 'uvloop<0.22'

mkdir "$work/both"
cat >"$work/both.py" <<'EOF'
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse


class Both(MLModel):
    def answer(self, text):
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("from", [text])])

    async def predict(self, payload):
        return self.answer("predict")

    async def predict_stream(self, payloads):
        async for _ in payloads:
            for number in range(2):
                yield self.answer(f"predict_stream-{number}")
EOF
echo '{"name": "both", "implementation": "both.Both"}' >"$work/both/model-settings.json"
cat >"$work/ports.py" <<'EOF'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(found.getsockname()[1] for found in sockets))
EOF
cat >"$work/request.py" <<'EOF'
import sys
import time
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{sys.argv[1]}/v2/models/both"
for _ in range(300):
    try:
        urllib.request.urlopen(f"{base}/ready").close()
        break
    except (OSError, urllib.error.HTTPError):
        time.sleep(0.2)
body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}'
request = urllib.request.Request(f"{base}/infer_stream", body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=60) as answer:
    text = answer.read().decode()
print(",".join(name for name in ("predict_stream-0", "predict_stream-1", '"predict"') if name in text).replace('"', ""))
EOF

answer_with() {
	local http grpc
	read -r http grpc < <(python3 "$work/ports.py")
	printf '{"host": "127.0.0.1", "http_port": %s, "grpc_port": %s, "gzip_enabled": false, "metrics_endpoint": null, "debug": false, "parallel_workers": %s}' \
		"$http" "$grpc" "$1" >"$work/settings.json"
	(cd "$work" && exec env PYTHONPATH=. "$work/venv/bin/mlserver" start .) >"$work/log" 2>&1 &
	server=$!
	"$work/venv/bin/python" "$work/request.py" "$http" >"$work/said" 2>>"$work/log" || { tail -n 5 "$work/log" >&2; exit 2; }
	kill "$server"
	wait "$server" 2>/dev/null || true
	server=
}

answer_with 0
inside=$(cat "$work/said")
answer_with 1
workers=$(cat "$work/said")
echo "parallel_workers 0: $inside; 1: $workers"
if [ "$inside" != "predict_stream-0,predict_stream-1" ] || [ "$workers" != "predict" ]; then
	echo "the behaviour has changed" >&2
	exit 1
fi
