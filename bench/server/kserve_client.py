"""KServe's own clients against a running server: `kserve_client.py HTTP_PORT GRPC_PORT`, in KServe's
environment.
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def request(binary: bool) -> InferRequest:
    array = np.arange(16, dtype=np.float32).reshape(1, 16)
    one = InferInput("x", [1, 16], "FP32")
    one.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name="small", infer_inputs=[one], request_id="seven")


async def main(http: int, grpc: int) -> None:
    answers = []
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://127.0.0.1:{http}"
    assert await rest.is_server_live(base)
    assert await rest.is_server_ready(base)
    assert await rest.is_model_ready(base, "small")
    for binary in (False, True):
        answer = await rest.infer(base, request(binary), model_name="small")
        assert answer.id == "seven"
        answers.append(answer.outputs[0].as_numpy())
    v1 = InferenceRESTClient(RESTConfig(protocol="v1"))
    rows = np.arange(16, dtype=float).reshape(1, 16).tolist()
    answer = await v1.infer(base, {"instances": rows}, model_name="small")
    answers.append(np.array(answer["predictions"], np.float32))
    client = InferenceGRPCClient(f"127.0.0.1:{grpc}")
    assert await client.is_server_ready()
    assert await client.is_model_ready("small")
    for binary in (False, True):
        answer = await client.infer(request(binary))
        answers.append(answer.outputs[0].as_numpy())
    for one in answers[1:]:
        np.testing.assert_allclose(one, answers[0], atol=1e-5)


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
