"""A server copies what it answers to another one, and compares, without its clients noticing."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from longshore_server.cost import CostModel
from longshore_server.dtypes import BF16, BYTES, FP32, INT64, pack_bytes
from longshore_server.inference import Group, Outputs, Work
from longshore_server.metrics import Metrics, SharedMemory
from longshore_server.mirror import LARGEST, Mirror
from longshore_server.mirrorclient import Target
from longshore_server.mirrorcompare import BadAnswerError, parse_answer, same
from longshore_server.mirrorlease import Wanted
from longshore_server.session import Signature, TensorSpec
from onnx import TensorProto

from e2e.ports import free_ports
from tests.server import models
from tests.server.harness import Server, failed_start

KEY = "a-key-that-only-the-operator-knows"
ROW = np.linspace(-1, 1, 16, dtype=np.float32)
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.tolist()}]}
HOLD = {"share": 1, "seconds": 60, "tolerance": 0.01, "revision": "second"}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.mlp(tmp_path_factory.mktemp("first") / "m")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes and gives the same tensors, with other values."""
    return models.mlp(tmp_path_factory.mktemp("other") / "m", seed=7)


def mirroring(model: Path, target: str, *flags: str) -> Server:
    return Server(model, "--mirror-target", target, "--mirror-key", KEY, *flags)


def ask_for(server: Server, wanted: Any = HOLD, key: str = KEY) -> int:
    headers = {"Longshore-Mirror-Key": key} if key else {}
    return server.request("POST", "/mirror", json.dumps(wanted).encode(), headers)[0]


def count(server: Server, what: str) -> float:
    found = [value for name, value in server.metrics().items() if name.split("{")[0] == f"longshore_{what}"]
    assert len(found) == 1, what
    return found[0]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def ask_until(server: Server, holds: Callable[[], bool], what: str) -> int:
    """Ask until something holds; gives how often."""
    asked = 0

    def asked_once_more() -> bool:
        nonlocal asked
        asked += 1
        assert server.infer(ASK)[0] == 200
        return holds()

    until(asked_once_more, what)
    return asked


@contextlib.contextmanager
def silent() -> Iterator[tuple[str, list[bytes]]]:
    """Somebody who takes requests and never answers; gives the address and the first bytes of each."""
    heard: list[bytes] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stop = threading.Event()

        def take() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    kept.append(connection)
                    connection.settimeout(5)
                    heard.append(connection.recv(65536))

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", heard
        finally:
            stop.set()
            thread.join()
            for connection in kept:
                connection.close()


def test_equal_revisions_agree_whatever_protocol_was_asked_by(first: Path) -> None:
    with Server(first) as second, mirroring(first, second.address) as server:
        server.infer(ASK)
        assert count(server, "mirror_share") == 0
        assert ask_for(server) == 200
        assert count(server, "mirror_share") == 1

        def compared() -> float:
            return count(server, "mirror_compared_total")

        ask_until(server, lambda: compared() >= 5, "JSON requests are compared")
        before = compared()
        asks: list[Callable[[], Any]] = [
            lambda: server.post("/v1/models/m:predict", {"instances": [ROW.tolist()]}),
            lambda: grpc_ask(server),
            lambda: server.infer({**ASK, "outputs": [{"name": "y", "parameters": {"classification": 2}}]}),
        ]
        for ask in asks:
            before = compared()
            until(lambda: bool(ask()) and compared() > before, "it is compared")  # noqa: B023 - used at once
        assert count(server, "mirror_differing_total") == 0
        assert count(server, "mirror_failed_total") == 0
        before = compared()
        until(lambda: count(second, "requests_total") >= before, "a server counts what it has answered")
        assert count(second, "requests_refused_total") == 0


def grpc_ask(server: Server) -> bool:
    tensor = grpcclient.InferInput("x", [3, 16], "FP32")
    tensor.set_data_from_numpy(np.stack([ROW, 2 * ROW, 0 * ROW]))
    client = grpcclient.InferenceServerClient(server.grpc_address)
    try:
        answer = client.infer("m", [tensor])
        return answer.as_numpy("y") is not None
    finally:
        client.close()


def test_other_answers_differ_and_no_client_sees_them(first: Path, other: Path) -> None:
    with Server(other) as second, mirroring(first, second.address) as server:
        before = server.infer(ASK)
        assert before != second.infer(ASK)
        assert ask_for(server) == 200
        ask_until(server, lambda: count(server, "mirror_differing_total") >= 5, "answers are compared")
        assert server.infer(ASK) == before
        until(
            lambda: count(server, "mirror_compared_total") == count(server, "mirror_differing_total"),
            "all of them differ",
        )


def test_how_near_is_the_same_is_what_was_asked_for(first: Path, other: Path) -> None:
    with Server(other) as second, mirroring(first, second.address) as server:
        assert ask_for(server, {**HOLD, "tolerance": 1e6}) == 200
        ask_until(server, lambda: count(server, "mirror_compared_total") >= 3, "answers are compared")
        assert count(server, "mirror_differing_total") == 0


def test_strings_and_labels_are_compared_too(tmp_path: Path) -> None:
    model = models.identity(tmp_path / "m", TensorProto.STRING)
    ask = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "né"]}]}
    with Server(model) as second, mirroring(model, second.address) as server:
        name = server.get("/v2/models/m")[1]["inputs"][0]["name"]
        ask["inputs"][0]["name"] = name
        assert ask_for(server) == 200
        until(
            lambda: server.infer(ask)[0] == 200 and count(server, "mirror_compared_total") >= 2,
            "strings are compared",
        )
        assert count(server, "mirror_differing_total") == 0


def test_a_dead_revision_changes_no_answer(first: Path) -> None:
    with mirroring(first, f"127.0.0.1:{free_ports(1)[0]}") as server:
        before = server.infer(ASK)
        assert ask_for(server) == 200
        ask_until(server, lambda: count(server, "mirror_failed_total") >= 3, "copies fail")
        assert server.infer(ASK) == before
        assert count(server, "mirror_compared_total") == 0
        assert count(server, "requests_failed_total") == 0


def test_a_revision_that_never_answers_holds_up_nobody_and_a_flood_is_dropped(first: Path) -> None:
    with silent() as (address, heard), mirroring(first, address) as server:
        before = server.infer(ASK)
        assert ask_for(server) == 200
        asked = ask_until(server, lambda: count(server, "mirror_dropped_total") >= 200, "copies are dropped")
        assert asked > 200
        # All of them were answered, though not one of the copies was.
        assert count(server, "mirror_compared_total") == 0
        assert server.infer(ASK) == before
        until(lambda: len(heard) >= 4, "some were sent")
        assert len(heard) <= 4 + count(server, "mirror_failed_total"), "four at once, and no more"
        assert all(b"Longshore-Mirror-Key: " + KEY.encode() in head for head in heard)
        until(lambda: count(server, "mirror_failed_total") >= 4, "copies are given up")


def test_it_ends_by_itself_or_when_told_to(first: Path) -> None:
    with Server(first) as second, mirroring(first, second.address) as server:
        assert ask_for(server, {**HOLD, "seconds": 0.2}) == 200
        until(lambda: count(server, "mirror_share") == 0, "the lease has run out")
        for _ in range(20):
            server.infer(ASK)
        assert count(second, "requests_total") == 0
        assert ask_for(server) == 200
        assert ask_for(server, {"seconds": 0, "share": 0}) == 200
        for _ in range(20):
            server.infer(ASK)
        assert count(second, "requests_total") == 0
        assert count(server, "mirror_dropped_total") == 0


def test_a_copy_is_not_copied_again(first: Path) -> None:
    one = mirroring(first, "127.0.0.1:1")
    two = mirroring(first, one.address)
    one._command += ("--mirror-target", two.address)
    with one, two:
        assert ask_for(one) == ask_for(two) == 200
        ask_until(one, lambda: count(one, "mirror_compared_total") >= 10, "copies are answered")
        assert count(two, "mirror_compared_total") == count(two, "mirror_dropped_total") == 0
        before = count(two, "mirror_compared_total")
        ask_until(two, lambda: count(two, "mirror_compared_total") > before, "its own requests are copied")


def test_a_share_is_a_share(first: Path) -> None:
    with Server(first) as second, mirroring(first, second.address) as server:
        assert ask_for(server, {**HOLD, "share": 0.2}) == 200
        asked = ask_until(server, lambda: count(server, "mirror_compared_total") >= 20, "a share is compared")
        chosen = count(server, "mirror_compared_total") + count(server, "mirror_dropped_total")
        assert chosen / asked < 0.5


def test_all_processes_of_a_pod_are_asked_at_once(first: Path) -> None:
    with Server(first) as second, mirroring(first, second.address, "--workers", "2") as server:
        assert ask_for(server) == 200
        # Every request is a connection of its own, so both processes answer some.
        ask_until(server, lambda: count(server, "mirror_compared_total") >= 10, "answers are compared")
        dropped = count(server, "mirror_dropped_total")
        asked = sum(server.infer(ASK)[0] == 200 for _ in range(20))
        until(
            lambda: (
                count(server, "mirror_compared_total") + count(server, "mirror_dropped_total") - dropped
                >= 10 + asked
            ),
            "whoever answers, copies",
        )


def test_strangers_cannot_ask_for_it_nor_choose_the_target(first: Path) -> None:
    with Server(first) as second, mirroring(first, second.address) as server:
        for key in ("", "guessed", KEY[:-1], KEY + "x"):
            assert ask_for(server, key=key) == 401
        assert count(server, "mirror_share") == 0
        assert second.request("POST", "/mirror", b"{}", {"Longshore-Mirror-Key": ""})[0] == 404
        bad: list[Any] = [
            [],
            {"share": 2, "seconds": 1},
            {"share": -1, "seconds": 1},
            {"share": 1, "seconds": 1e9},
            {"share": "1", "seconds": 1},
            {"share": True, "seconds": 1},
            {"share": 1, "seconds": 1, "tolerance": -1},
            {"share": 1, "seconds": 1, "tolerance": 1e300},
            {"share": 1, "seconds": 1, "revision": 5},
            {"share": 1, "seconds": 1, "revision": "x" * 300},
            {"share": 1, "seconds": 1, "padding": "x" * 5000},
        ]
        for wanted in bad:
            assert ask_for(server, wanted) == 400, wanted
        for raw in (b"", b"{", b'{"share": NaN}', b"\xff"):
            assert server.request("POST", "/mirror", raw, {"Longshore-Mirror-Key": KEY})[0] == 400
        assert count(server, "mirror_share") == 0
        # What a stranger says of a target is passed over.
        with silent() as (address, heard):
            assert ask_for(server, {**HOLD, "target": address, "host": address}) == 200
            ask_until(
                server, lambda: count(server, "mirror_compared_total") >= 2, "copies go where they should"
            )
            assert heard == []
        # Who does not know the key cannot keep a request from being copied.
        before = count(server, "mirror_compared_total")
        hidden = {"Longshore-Mirror-Key": "guessed"}
        until(
            lambda: server.infer(ASK, **hidden)[0] == 200 and count(server, "mirror_compared_total") > before,
            "it is copied like any other",
        )


async def test_what_cannot_be_copied_is_dropped_and_troubles_nobody() -> None:
    memory = SharedMemory(1)
    metrics = Metrics(memory, 0, 0.1, "", "")
    signature = Signature(spec(FP32), spec(FP32))
    mirror = Mirror(Target("127.0.0.1", 1, "m", KEY, LARGEST), signature, metrics)
    metrics.lease.grant(Wanted(share=1.0, seconds=60.0, tolerance=0.01, revision="second"))
    scattered = np.zeros((4, 4), np.float32)[::2, ::2]
    large = np.zeros(LARGEST // 4 + 1, np.float32)
    for dropped, payload in enumerate((scattered, large, object()), start=1):
        mirror._due = 0.0
        work = Work(Group(((2,),), True, CostModel()), 2, [payload], 0.0, None)
        mirror.observe([work], Outputs(signature, [np.zeros((2, 1), np.float32)], True))
        assert f"longshore_mirror_dropped_total {dropped}\n" in metrics.exposition().decode()
    mirror.close()


def test_a_target_and_a_key_go_together(first: Path) -> None:
    assert failed_start(first, "--mirror-target", "digits-canary.team.svc:80")[0] == 2
    assert failed_start(first, "--mirror-key", KEY)[0] == 2
    assert failed_start(first, "--mirror-target", "no-port", "--mirror-key", KEY)[0] == 2
    assert failed_start(first, "--mirror-target", "a:80", "--mirror-key", "a\r\nb")[0] == 2


def spec(datatype: Any) -> tuple[TensorSpec, ...]:
    return (TensorSpec("y", datatype, (-1, -1), ("", "")),)


def agrees(
    datatype: Any, own: Any, other: Any, name: str = "", rows: bool = True, tolerance: float = 0.01
) -> bool:
    return same(spec(datatype), [own], {"y": (name or datatype.name, other)}, rows, tolerance)


def test_numbers_are_compared_row_by_row() -> None:
    own = np.array([[3.0, 4.0], [300.0, 400.0]], np.float32)
    assert agrees(FP32, own, own)
    assert agrees(FP32, own, own + np.float32([[0.02, 0.02], [2, 2]]))
    off = own + np.float32([[1, 0], [0, 0]])
    assert not agrees(FP32, own, off), "a large row beside it hides nothing"
    assert agrees(FP32, own, off, rows=False), "unless they are one answer"
    assert not agrees(FP32, own, own[:, :1])
    assert not agrees(FP32, own, own.astype(np.float64), name="FP64")
    assert agrees(FP32, own[:0], own[:0])
    assert agrees(FP32, np.float32(2).reshape(()), np.float32(2).reshape(()), rows=False)


def test_what_is_no_number_must_be_in_the_same_place() -> None:
    own = np.array([[1.0, np.nan, np.inf]], np.float32)
    assert agrees(FP32, own, own)
    assert not agrees(FP32, own, np.array([[1.0, 2.0, np.inf]], np.float32))
    assert not agrees(FP32, own, np.array([[1.0, np.nan, -np.inf]], np.float32))
    large = np.full((1, 4), 3e38, np.float32)
    assert agrees(FP32, large, large)
    assert not agrees(FP32, large, -large)


def test_labels_and_strings_are_the_same_or_not() -> None:
    labels = np.array([[1], [1000]])
    assert agrees(INT64, labels, labels.copy())
    assert not agrees(INT64, labels, labels + np.array([[0], [1]]))
    names = np.array([["cat"], ["né"]], object)
    assert agrees(BYTES, names, np.array([[b"cat"], ["né".encode()]], object))
    assert not agrees(BYTES, names, np.array([[b"cat"], [b"dog"]], object))
    halves = np.array([[1.5, -2.0]], ml_dtypes.bfloat16).view(np.uint16)
    assert agrees(BF16, halves, halves + np.uint16(1), tolerance=0.02)
    assert not agrees(BF16, halves, halves ^ np.uint16(0x8000))


def test_other_outputs_are_another_answer() -> None:
    own = np.ones((1, 1), np.float32)
    assert not same(spec(FP32), [own], {}, True, 1.0)
    assert not same(spec(FP32), [own], {"y": ("FP32", own), "z": ("FP32", own)}, True, 1.0)


def answer(*outputs: dict[str, Any], raw: bytes = b"") -> tuple[bytes, int]:
    document = json.dumps({"outputs": list(outputs)}).encode()
    return document + raw, len(document)


def output(**fields: Any) -> dict[str, Any]:
    size = fields.pop("size", 8)
    return {
        "name": "y",
        "datatype": "FP32",
        "shape": [1, 2],
        "parameters": {"binary_data_size": size},
        **fields,
    }


def test_an_answer_is_read_as_it_was_written() -> None:
    strings = pack_bytes(["a", "né"])
    found = parse_answer(
        *answer(
            output(),
            output(name="s", datatype="BYTES", size=len(strings)),
            raw=np.float32([1, 2]).tobytes() + strings,
        )
    )
    assert found["y"][1].tolist() == [[1.0, 2.0]]
    assert found["s"][1].tolist() == [[b"a", "né".encode()]]


@pytest.mark.parametrize(
    "said",
    [
        answer(output(), raw=bytes(7)),
        answer(output(), raw=bytes(9)),
        answer(output(shape=[1, 3]), raw=bytes(8)),
        answer(output(shape=[-1, -2]), raw=bytes(8)),
        answer(output(shape="12"), raw=bytes(8)),
        answer(output(shape=[2**62, 2**62]), raw=bytes(8)),
        answer(output(shape=[0] * 1000, size=0)),
        answer(output(datatype="BYTES", shape=[10**12]), raw=bytes(8)),
        answer(output(datatype="BYTES", shape=[2]), raw=b"\xff\xff\xff\x7f0000"),
        answer(output(datatype="FP8"), raw=bytes(8)),
        answer(output(parameters={}), raw=bytes(8)),
        answer(output(size=-8), raw=bytes(8)),
        answer(output(size=1e3), raw=bytes(8)),
        (b"[]", 2),
        (b'{"outputs": 5}', 14),
        (b'{"outputs": [5]}', 16),
        (b"\xff\xfe", 2),
        (b"{}", 0),
        (b"{}", 500),
    ],
)
def test_who_answers_is_not_trusted(said: tuple[bytes, int]) -> None:
    with pytest.raises(BadAnswerError):
        parse_answer(*said)
