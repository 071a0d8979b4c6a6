"""A second, plain implementation of `infer`: what the fast path must answer, byte for byte."""

import json
from pathlib import Path
from typing import Any

import h11
import numpy as np
import onnxruntime as ort
import orjson

DTYPES = {"FP32": np.float32, "INT64": np.int64}


class Reference:
    def __init__(self, model: Path) -> None:
        self.name = model.name
        self.session = ort.InferenceSession(model / "model.onnx")

    def run(self, feeds: dict[str, Any]) -> list[tuple[str, str, Any]]:
        names = [node.name for node in self.session.get_outputs()]
        kinds = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}
        types = [kinds[node.type] for node in self.session.get_outputs()]
        return list(zip(names, types, self.session.run(names, feeds), strict=True))

    def http(self, data: bytes) -> bytes:
        """The answer to one valid request."""
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        request: Any = connection.next_event()
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        headers = {name.decode(): value.decode() for name, value in request.headers}
        length = int(headers.get("inference-header-content-length", len(body)))
        document, raw = json.loads(body[:length]), body[length:]
        feeds = {}
        for tensor in document["inputs"]:
            size = tensor.get("parameters", {}).get("binary_data_size")
            dtype = DTYPES[tensor["datatype"]]
            if size is None:
                feeds[tensor["name"]] = np.array(tensor["data"], dtype).reshape(tensor["shape"])
            else:
                feeds[tensor["name"]] = np.frombuffer(raw[:size], dtype).reshape(tensor["shape"])
                raw = raw[size:]
        return self.answer(document, self.run(feeds), headers.get("connection") == "close")

    def answer(self, document: Any, outputs: Any, close: bool) -> bytes:
        default = document.get("parameters", {}).get("binary_data_output", False)
        wanted = document.get("outputs") or [{"name": name} for name, _, _ in outputs]
        head: dict[str, Any] = {"model_name": self.name, "model_version": "1"}
        if document.get("id"):
            head["id"] = document["id"]
        head["outputs"], blobs = [], b""
        by_name = {name: (kind, array) for name, kind, array in outputs}
        any_binary = False
        for output in wanted:
            kind, array = by_name[output["name"]]
            tensor = {"name": output["name"], "datatype": kind, "shape": list(array.shape)}
            if output.get("parameters", {}).get("binary_data", default):
                tensor["parameters"] = {"binary_data_size": array.nbytes}
                blobs += array.tobytes()
                any_binary = True
            else:
                tensor["data"] = np.ascontiguousarray(array).reshape(-1)
            head["outputs"].append(tensor)
        text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
        lines = [
            "HTTP/1.1 200 OK",
            f"Content-Type: application/{'octet-stream' if any_binary else 'json'}",
            *([f"Inference-Header-Content-Length: {len(text)}"] if any_binary else []),
            *(["Connection: close"] if close else []),
            f"Content-Length: {len(text) + len(blobs)}",
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + text + blobs
