"""The small model as a KServe custom model."""

import logging
import os
import sys

import onnxruntime as ort
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class OnnxModel(Model):
    def __init__(self) -> None:
        super().__init__("small")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        array = payload.inputs[0].as_numpy()
        (result,) = self._session.run(None, {"x": array})
        output = InferOutput("y", list(result.shape), "FP32")
        output.set_data_from_numpy(result, binary_data=bool(payload.request_outputs))
        return InferResponse(response_id=payload.id or "0", model_name="small", infer_outputs=[output])


logging.disable(logging.INFO)  # two lines a request would be measured too
http, grpc = map(int, sys.argv[1:])
sys.argv = sys.argv[:1]
ModelServer(
    http_port=http, grpc_port=grpc, workers=1, access_log_format=None, enable_latency_logging=False
).start([OnnxModel()])
