"""The small model as a LitServe app."""

import os
import sys

import litserve
import numpy as np
import onnxruntime as ort


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)

    def decode_request(self, request: dict) -> np.ndarray:
        tensor = request["inputs"][0]
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"x": x})[0]

    def encode_response(self, output: np.ndarray) -> dict:
        return {"outputs": [{"name": "y", "data": output.ravel().tolist()}]}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu")
    server.run(
        port=int(sys.argv[1]),
        host="127.0.0.1",
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
