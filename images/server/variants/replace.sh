# Puts a variant's ONNX Runtime in place of the one for CPUs: replace.sh openvino|cuda, in the image's build.
# Libraries that the server never loads are left out: the same ones under other names, and those of devices that
# the image has no drivers for.
set -eu
python=/opt/longshore/bin/python
/opt/uv/bin/uv pip uninstall --quiet --python $python onnxruntime
/opt/uv/bin/uv pip install --no-deps --require-hashes --python $python -r "/variants/$1.txt"
cd /opt/longshore/lib/python3*/site-packages/onnxruntime/capi
rm -f libonnxruntime.so.* libopenvino*.so.*.*.* libopenvino.so libopenvino_onnx_frontend.so libopenvino_c.so* \
    libopenvino_intel_[gn]pu_plugin.so libtbb.so
$python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/longshore/lib
