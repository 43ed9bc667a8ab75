#!/usr/bin/env bash
# onnx: `onnx.save(…, save_as_external_data=True)` makes the file of the weights readable for its owner alone (0600); the model beside it gets
# the usual mode.
#
# Seen with onnx 1.23.2, numpy 2.4.6, Python 3.11, umask 022:
#   model.onnx       644
#   model.onnx_data  600
# Whoever exports a model and serves it as another user, such as a container's, has a graph that can be read and weights that cannot.
#
# Needs python3 with venv, and a package index that pip knows. Exits 0 while the behaviour is as described, 1 once it has changed.
set -euo pipefail

work=$(mktemp -d /tmp/finding-XXXXXX)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cd "$work"
umask 022
env/bin/python - <<'PYTHON'
import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(numpy.ones(1024, numpy.float32), "weights")
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024]) for name in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "weights"], ["y"])], "add", [x], [y], [weights])
onnx.save(
    helper.make_model(graph), "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0
)
PYTHON
modes=$(stat --format '%n %a' model.onnx model.onnx_data)
echo "$modes"
[[ $modes == $'model.onnx 644\nmodel.onnx_data 600' ]] || { echo "the behaviour has changed" >&2; exit 1; }
