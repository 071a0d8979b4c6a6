"""Recorded requests: what the optimizer left, else some of the traffic; for the operator alone."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from longshore_server.artifact import SAMPLES_FILE
from longshore_server.cost import CostModel
from longshore_server.dtypes import BF16, BYTES, FP16, FP32, INT64, Datatype
from longshore_server.inference import Group, Work
from longshore_server.samples import LARGEST, Samples
from longshore_server.session import Signature, TensorSpec

from tests.server import models
from tests.server.harness import Server

KEY = "a-key-that-only-the-operator-knows"
GIVEN = {"Longshore-Mirror-Key": KEY}
FLAGS = ("--mirror-target", "127.0.0.1:9", "--mirror-key", KEY)
ROW = np.linspace(-1, 1, 16, dtype=np.float32)
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.tolist()}]}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def work(*inputs: Any, shape: tuple[int, ...] = (2,), batched: bool = True) -> Work:
    return Work(Group((shape,) * len(inputs), batched, CostModel()), 1, list(inputs), 0.0, None)


def floats(value: float, count: int = 2) -> Work:
    return work(np.full(count, value, np.float32).tobytes(), shape=(count,))


def signature(*datatypes: Datatype) -> Signature:
    specs = (TensorSpec(f"x{i}", datatype, (-1, 2), ("", "")) for i, datatype in enumerate(datatypes))
    return Signature(tuple(specs), ())


def parsed(samples: Samples, *datatypes: Datatype) -> list[dict[str, Any]]:
    return [json.loads(line) for line in samples.lines(signature(*datatypes)).splitlines()]


def recorded(server: Server, headers: dict[str, str] = GIVEN) -> tuple[int, list[dict[str, Any]], str]:
    status, head, body = server.request("GET", "/samples", headers=headers)
    lines = [json.loads(line) for line in body.splitlines()] if status == 200 else []
    return status, lines, head.get("longshore-samples", "")


def test_a_request_a_second_is_kept_until_there_are_enough_and_old_ones_make_room_slowly() -> None:
    clock = Clock()
    samples = Samples(None, clock)
    for number in range(16):
        samples.observe([floats(number)])
        samples.observe([floats(-1)])
        clock.now += 1.0
    assert [line["inputs"][0]["data"][0] for line in parsed(samples, FP32)] == list(range(16))
    clock.now += 10.0
    samples.observe([floats(16)])
    clock.now += 9.0
    samples.observe([floats(17)])
    assert [line["inputs"][0]["data"][0] for line in parsed(samples, FP32)] == list(range(1, 17))


def test_what_is_kept_is_a_copy_and_as_large_as_is_sensible() -> None:
    samples = Samples(None, clock := Clock())
    buffer = bytearray(np.float32([1, 2]).tobytes())
    samples.observe([work(memoryview(buffer))])
    buffer[:] = bytes(8)
    clock.now += 5
    samples.observe([floats(9, count=1 << 20)])
    assert [line["inputs"][0]["data"] for line in parsed(samples, FP32)] == [[1.0, 2.0]]


def test_every_datatype_is_written_as_the_protocol_has_it_in_json() -> None:
    samples = Samples(None, Clock())
    samples.observe(
        [
            work(
                np.array([1.5, -2], np.float16).tobytes(),
                np.array([0.5, 3], ml_dtypes.bfloat16).tobytes(),
                np.array([2**53 + 1, -1], np.int64).tobytes(),
                [b"caf\xc3\xa9", b"\xff"],
            )
        ]
    )
    (line,) = parsed(samples, FP16, BF16, INT64, BYTES)
    assert [tensor["data"] for tensor in line["inputs"]] == [
        [1.5, -2.0],
        [0.5, 3.0],
        [2**53 + 1, -1],
        ["café", "\ufffd"],
    ]
    assert [tensor["datatype"] for tensor in line["inputs"]] == ["FP16", "BF16", "INT64", "BYTES"]
    assert line["inputs"][0]["shape"] == [1, 2]


def test_a_whole_file_of_requests_is_cut_between_lines(tmp_path: Path) -> None:
    file = tmp_path / SAMPLES_FILE
    line = b'{"inputs":"' + b"a" * (1 << 20) + b'"}\n'
    file.write_bytes(line * 5)
    found = Samples(file).lines(signature(FP32))
    assert found == line * 3
    assert len(found) <= LARGEST
    file.unlink()
    assert Samples(file).lines(signature(FP32)) == b""


def test_traffic_of_any_protocol_can_be_asked_again_by_whoever_has_the_key(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "mlp")
    with Server(model, *FLAGS) as server:
        assert recorded(server) == (200, [], "traffic")
        assert server.infer(ASK, **GIVEN)[0] == 200, "the operator's own requests are not traffic"
        assert recorded(server)[1] == []
        with grpcclient.InferenceServerClient(server.grpc_address) as client:
            tensor = grpcclient.InferInput("x", [1, 16], "FP32")
            tensor.set_data_from_numpy(ROW[None])
            answer = client.infer("mlp", [tensor]).as_numpy("y")
        status, lines, source = recorded(server)
        assert (status, source, len(lines)) == (200, "traffic", 1)
        again = server.infer(lines[0])[1]["outputs"][0]["data"]
        np.testing.assert_allclose(again, answer[0], rtol=1e-6)


def test_what_the_optimizer_left_is_given_and_to_nobody_else(tmp_path: Path) -> None:
    model = models.mlp(tmp_path / "mlp")
    (model / SAMPLES_FILE).write_text(json.dumps(ASK) + "\n")
    with Server(model, *FLAGS) as server:
        assert recorded(server) == (200, [ASK], "evaluation")
        assert recorded(server, {})[0] == 401
        assert recorded(server, {"Longshore-Mirror-Key": "guessed"})[0] == 401
        for path in ("/samples/", "/samples//", "/samples%2F", "/mirror/"):
            method = "POST" if "mirror" in path else "GET"
            assert server.request(method, path)[0] == 401, "no other spelling of the path needs no key"
    with Server(model) as server:
        assert recorded(server)[0] == 404


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_a_file_outside_the_directory_is_not_given(tmp_path: Path, kind: str) -> None:
    model = models.mlp(tmp_path / "mlp")
    secret = tmp_path / "secret"
    secret.write_text("a secret\n")
    if kind == "link":
        (model / SAMPLES_FILE).symlink_to(secret)
    else:
        (model / SAMPLES_FILE).mkdir()
    with Server(model, *FLAGS) as server:
        assert recorded(server) == (200, [], "traffic")
