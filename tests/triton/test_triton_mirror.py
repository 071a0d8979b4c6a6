"""Copies of requests that Triton answered: what its tracing tells, who gets them, and how they compare."""

import asyncio
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as httpclient
from longshore.plan.mirror import Mirroring
from longshore.plan.telemetry import parse_predictions
from longshore.runtimes.triton import RUNTIME
from longshore.scrape import Scraper, ScrapeTarget
from longshore_triton import traced
from longshore_triton.log import Log
from longshore_triton.mirror import Mirror, Target
from longshore_triton.recent import Recent
from longshore_triton.tracing import Tracing, Watch
from onnx import TensorProto, helper

from e2e.ports import free_ports
from tests.server import models
from tests.server.harness import Server
from tests.triton.harness import Triton

KEY = "between-pods-alone"


def scaled(directory: Path, by: float) -> Path:
    """x [N, 4] FP32 -> y = by * x, label = index of the largest, INT64 [N, 1]."""
    return models.save(
        directory,
        [
            helper.make_node("Mul", ["x", "by"], ["y"]),
            helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=1),
        ],
        [("x", TensorProto.FLOAT, ["N", 4])],
        [("y", TensorProto.FLOAT, ["N", 4]), ("label", TensorProto.INT64, ["N", 1])],
        {"by": np.array(by, np.float32)},
    )


def lease(port: int, key: str = KEY, **asked: Any) -> tuple[int, dict[str, float] | str]:
    """Ask for copies as the operator does; gives the status and the counters."""
    wanted = {"share": 1.0, "seconds": 15.0, "tolerance": 0.01, "revision": "2", **asked}
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("POST", "/mirror", json.dumps(wanted), {"Longshore-Mirror-Key": key})
        answer = connection.getresponse()
        text = answer.read().decode()
    if answer.status != 200:
        return answer.status, text
    return answer.status, {name: float(value) for name, value in map(str.split, text.splitlines())}


def counters(port: int, **asked: Any) -> dict[str, float]:
    status, found = lease(port, **asked)
    assert status == 200, found
    assert isinstance(found, dict)
    return {name.removeprefix("longshore_mirror_").removesuffix("_total"): n for name, n in found.items()}


def ask(server: Triton, by: float = 1.0, outputs: Sequence[str] = ()) -> None:
    """Send ten requests and see that each is answered right; no named outputs are all of them."""
    wanted = [httpclient.InferRequestedOutput(name) for name in outputs] or None
    rows = np.array([[1, 7.123456789, 3, 2]], np.float32)
    value = httpclient.InferInput("x", [1, 4], "FP32")
    value.set_data_from_numpy(rows)
    with httpclient.InferenceServerClient(server.address) as client:
        for _ in range(10):
            np.testing.assert_array_equal(
                client.infer(server.name, [value], outputs=wanted).as_numpy("y"), by * rows
            )


def load(
    server: Triton,
    port: int,
    until: Callable[[dict[str, float]], bool],
    outputs: Sequence[str] = (),
    **asked: Any,
) -> dict[str, float]:
    """Ask the model until the counters are so; gives them."""
    deadline = time.monotonic() + 30
    while not until(seen := counters(port, **asked)):
        assert time.monotonic() < deadline, (seen, server.log()[-1500:])
        ask(server, outputs=outputs)
    return seen


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The revision that answers copies alike, on the other runtime, which keeps to the same protocol."""
    with Server(scaled(tmp_path_factory.mktemp("other") / "m", 1.001)) as server:
        yield server


@pytest.fixture
def stable(tmp_path: Path) -> Iterator[Callable[..., Triton]]:
    """Start the revision that clients ask, with where its copies go."""
    begun: list[Triton] = []

    def start(model: Path, target: str, **wanted: Any) -> Triton:
        triton = Triton(model, tmp_path, name="m", samples_key=KEY, mirror_target=target, **wanted)
        begun.append(triton.__enter__())
        return triton

    yield start
    for triton in begun:
        triton.__exit__(None, None, None)


def test_copies_are_answered_alike_or_not_and_end_with_the_lease(
    stable: Callable[..., Triton], other: Server, tmp_path: Path
) -> None:
    model = scaled(tmp_path / "m", 1.0)
    # With recorded requests none of the traffic need be kept, so that nothing is traced without a lease.
    (model / "samples.jsonl").write_text("{}\n")
    triton = stable(model, other.address)
    port = triton.samples_port
    assert counters(port, seconds=0)["share"] == 0
    alike = load(triton, port, lambda seen: seen["compared"] >= 5)
    assert alike["share"] == 1
    assert alike["differing"] == alike["failed"] == alike["dropped"] == 0
    # Of what a client did not ask for, nothing is known: a copy does not ask for it either.
    some = load(triton, port, lambda seen: seen["compared"] >= alike["compared"] + 5, outputs=("y",))
    assert some["differing"] == some["failed"] == some["dropped"] == 0
    # A thousandth is more than this tolerance.
    strict = load(triton, port, lambda seen: seen["differing"] >= 3, tolerance=1e-4)
    assert strict["failed"] == 0
    ended = counters(port, share=0, seconds=0)
    assert ended["share"] == 0
    traces = tmp_path / "traces"
    deadline = time.monotonic() + 20
    while list(traces.iterdir()) or settings(triton)["trace_level"] != ["OFF"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    compared = counters(port, seconds=0)["compared"]
    ask(triton)
    assert not list(traces.iterdir())
    assert counters(port, seconds=0)["compared"] == compared


async def test_the_operator_hears_of_copies_though_tritons_metrics_know_nothing_of_them(
    stable: Callable[..., Triton], other: Server, tmp_path: Path
) -> None:
    triton = stable(scaled(tmp_path / "m", 2.0), other.address)
    source = replace(RUNTIME.metrics, port=triton.metrics_port, side_port=triton.samples_port)
    wanted = Mirroring("a", "b", 1.0, 15.0, 0.01, KEY)
    target = ScrapeTarget("pod", "uid", "a", "127.0.0.1", "0", source, mirroring=wanted)
    scraper = Scraper()
    try:
        deadline = time.monotonic() + 30
        values: dict[str, float] = {}
        while values.get("differing", 0) < 3:
            assert time.monotonic() < deadline, values
            (reading,) = (await scraper.read([target])).readings
            assert reading.unmirrored == ""
            values = dict(reading.values)
            assert values["mirroring"] == 1
            await asyncio.to_thread(ask, triton, 2.0)
        assert values["requests"] > values["compared"] == values["differing"]
        (reading,) = (await scraper.read([replace(target, mirroring=replace(wanted, key="wrong"))])).readings
        assert reading.unmirrored == "HTTP 401"
        older = replace(source, side_port=free_ports(1)[0])
        (reading,) = (await scraper.read([replace(target, source=older)])).readings
        assert "older version" in reading.unmirrored
        assert reading.values["requests"] > 0, "its counters count all the same"
    finally:
        await scraper.close()


async def test_predictions_are_counted_in_the_bins_of_the_other_runtime(
    stable: Callable[..., Triton], tmp_path: Path
) -> None:
    model = scaled(tmp_path / "m", 1.0)
    triton = stable(model, "127.0.0.1:9")
    source = replace(RUNTIME.metrics, port=triton.metrics_port, side_port=triton.samples_port)
    target = ScrapeTarget("pod", "uid", "a", "127.0.0.1", "0", source, predictions=True)
    scraper = Scraper()
    try:
        deadline = time.monotonic() + 30
        found: dict[str, dict[int, int]] = {}
        while sum(found.get("class", {}).values()) < 3:
            assert time.monotonic() < deadline, found
            (reading,) = (await scraper.read([target])).readings
            found = {kind: dict(bins) for kind, bins in reading.predictions.items()}
            await asyncio.to_thread(ask, triton)
    finally:
        await scraper.close()
    ask_json = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 7.123456789, 3, 2]}]
    }
    with Server(model) as server:
        deadline = time.monotonic() + 10
        while not (theirs := parse_predictions(server.request("GET", "/metrics/predictions")[2].decode())):
            assert time.monotonic() < deadline
            await asyncio.to_thread(server.infer, ask_json)
    assert {kind: set(bins) for kind, bins in found.items()} == {k: set(b) for k, b in theirs.items()}
    assert found.keys() == {"class", "value"}


def test_some_of_the_traffic_is_kept_for_the_operator(stable: Callable[..., Triton], tmp_path: Path) -> None:
    triton = stable(scaled(tmp_path / "m", 1.0), "127.0.0.1:9")
    deadline = time.monotonic() + 30
    while True:
        with closing(http.client.HTTPConnection("127.0.0.1", triton.samples_port, timeout=10)) as connection:
            connection.request("GET", "/samples", headers={"Longshore-Mirror-Key": KEY})
            answer = connection.getresponse()
            lines = [json.loads(line) for line in answer.read().splitlines()]
        assert (answer.status, answer.getheader("Longshore-Samples")) == (200, "traffic")
        if len(lines) >= 2:
            break
        assert time.monotonic() < deadline
        ask(triton)
    (value,) = lines[0]["inputs"]
    assert (value["name"], value["datatype"], value["shape"]) == ("x", "FP32", [1, 4])
    assert value["data"] == pytest.approx([1, 7.123456789, 3, 2], rel=1e-5)


def settings(triton: Triton) -> dict[str, Any]:
    """What Triton's tracing is set to, asked as longshore-triton does."""
    (command,) = (
        file.read_bytes().split(b"\0")
        for file in Path("/proc").glob("[0-9]*/cmdline")
        if f"--http-port={triton.http_port}".encode() in file.read_bytes()
    )
    (restricted,) = (word for word in command if word.startswith(b"--http-restricted-api="))
    secret = restricted.rpartition(b"longshore=")[2].decode()
    with closing(http.client.HTTPConnection("127.0.0.1", triton.http_port, timeout=10)) as connection:
        connection.request("GET", "/v2/models/m/trace/setting", headers={"longshore": secret})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    return found


def test_copies_that_nobody_answers_are_counted_and_told_and_clients_never_notice(
    stable: Callable[..., Triton], tmp_path: Path
) -> None:
    (nobody,) = free_ports(1)
    triton = stable(scaled(tmp_path / "m", 1.0), f"127.0.0.1:{nobody}")
    seen = load(triton, triton.samples_port, lambda seen: seen["failed"] >= 3)
    assert seen["compared"] == seen["differing"] == 0
    assert f"a copy was not answered by 127.0.0.1:{nobody}" in triton.log()


def test_leases_are_for_the_operator_alone(stable: Callable[..., Triton], tmp_path: Path) -> None:
    triton = stable(scaled(tmp_path / "m", 1.0), "127.0.0.1:9")
    port = triton.samples_port
    assert lease(port, key="guessed")[0] == 401
    for bad in ({"share": 2}, {"seconds": 61}, {"tolerance": -1}, {"share": "all"}, {"share": True}):
        status, why = lease(port, **bad)
        assert (status, "no lease" in str(why)) == (400, True), bad
    assert lease(port, revision="r" * 2000)[0] == 400
    # Tracing writes files, so no client may switch it.
    with closing(http.client.HTTPConnection("127.0.0.1", triton.http_port, timeout=10)) as connection:
        connection.request("POST", "/v2/models/m/trace/setting", '{"trace_level": ["TENSORS"]}')
        assert connection.getresponse().status == 403


class Written(Tracing):
    """Tracing that has written what it is given, and is switched on and off by nobody."""

    def __init__(self, directory: Path, *texts: bytes) -> None:
        super().__init__(9, "", "m", directory)
        self.asked: list[int] = []
        for number, text in enumerate(texts):
            (directory / f"trace.{number}").write_bytes(text)

    def begin(self, count: int, share: float) -> None:
        self.asked.append(count)

    def end(self) -> None:
        self.asked.append(0)


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"[" + bytes(25 << 20), "more than 24 MiB"), (b"[nonsense]", "not what Triton was seen")],
)
def test_what_is_too_large_or_strange_is_dropped_told_and_removed(
    text: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / "traces").mkdir()
    said = io.StringIO()
    tracing = Written(tmp_path / "traces", text)
    watch = Watch(tracing, Log(said), threading.Event())
    mirror = Mirror(Target("127.0.0.1", 9, "m", KEY), watch.tell, watch.wake)
    watch.start(mirror)
    body = json.dumps({"share": 1, "seconds": 3, "tolerance": 0.01}).encode()
    deadline = time.monotonic() + 20
    while "longshore_mirror_dropped_total 1\n" not in mirror.grant(body):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert why in said.getvalue()
    assert tracing.written() == []
    assert tracing.asked[0] == 1, "nobody knows yet how large requests are"


def test_of_the_traffic_one_request_is_traced_at_a_time_and_none_when_it_is_too_early(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    text = whole(record("QUEUE_INPUT", "x", b"1,2", "1,2", "FP32"), ANSWER)
    tracing, told = Written(tmp_path / "traces", text), threading.Event()
    watch, recent = Watch(tracing, Log(io.StringIO()), told), Recent()
    watch.start(Mirror(Target("127.0.0.1", 9, "m", KEY), watch.tell, watch.wake), recent)
    deadline = time.monotonic() + 20
    while len(tracing.asked) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    told.set()
    assert tracing.asked[:3] == [1, 0, 1]
    assert json.loads(recent.lines())["inputs"][0]["data"] == [1, 2]


def record(activity: str, name: str, data: bytes, shape: str, dtype: str, number: int = 1) -> bytes:
    head = f'{{"id":{number},"activity":"TENSOR_{activity}","tensor":{{"name":"{name}","data":"'
    return head.encode() + data + f'","shape":"{shape}","dtype":"{dtype}"}}}}'.encode()


def whole(*records: bytes) -> bytes:
    return b"[" + b",".join(records) + b"]"


ANSWER = record("BACKEND_OUTPUT", "y", b"1", "1", "FP32")


@pytest.mark.parametrize(
    ("data", "shape", "dtype", "values"),
    [
        (b"0.5,nan,-inf", "3", "FP32", [0.5, np.nan, -np.inf]),
        (b"4611686018427387905,-3", "1,2", "INT64", [[2**62 + 1, -3]]),
        (b"18446744073709551615", "1", "UINT64", [2**64 - 1]),
        (b"1,0", "2", "BOOL", [True, False]),
        (b'A,",\x00,,', "4", "UINT8", [65, 34, 0, 44]),
        (b"\xfe", "1", "INT8", [-2]),
        (b"", "0,4", "FP32", np.zeros((0, 4))),
        (b'"a"b\\\n","","\xc3\xbc"', "1,3", "BYTES", [[b'a"b\\\n', b"", b"\xc3\xbc"]]),
        (b'\\"a"b\\",\\"\\"', "2", "BYTES", [b'a"b', b""]),
    ],
)
def test_values_of_every_type_are_read_as_triton_writes_them(
    data: bytes, shape: str, dtype: str, values: Any
) -> None:
    found = traced.parse(whole(record("QUEUE_INPUT", "x", data, shape, dtype), ANSWER)).inputs["x"]
    assert found.datatype == dtype
    assert found.values.shape == np.shape(values)
    np.testing.assert_array_equal(found.values, np.array(values, found.values.dtype))


def test_of_an_ensemble_the_clients_own_tensors_count() -> None:
    text = whole(
        record("QUEUE_INPUT", "inner", b"1", "1", "INT64", 2),
        record("BACKEND_OUTPUT", "inner", b"2", "1", "INT64", 2),
        record("QUEUE_INPUT", "text", b'"a"', "1", "BYTES"),
        record("BACKEND_OUTPUT", "y", b"3", "1", "INT64"),
    )
    found = traced.parse(text)
    assert (found.inputs.keys(), found.outputs.keys()) == ({"text"}, {"y"})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[",
        whole(ANSWER),
        whole(record("QUEUE_INPUT", "x", b"1", "1", "FP32")),
        whole(record("QUEUE_INPUT", "x", b"", "1", "FP16"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"", "1", "BF16"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"1,2", "1", "FP32"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"1", "2", "UINT8"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"1", "9999999999,9999999999", "UINT8"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"256", "1", "INT64") + b"x", ANSWER),
        whole(record("QUEUE_INPUT", "x", b"18446744073709551616", "1", "UINT64"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b'"a","b"', "1", "BYTES"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b'"', "1", "BYTES"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"one", "1", "FP32"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b"1", ",".join("1" * 65), "FP32"), ANSWER),
        whole(record("QUEUE_INPUT", "x", b'"' + ANSWER + b'"', "1", "BYTES"), ANSWER),
    ],
)
def test_what_cannot_be_read_for_certain_is_not_copied(text: bytes) -> None:
    with pytest.raises(traced.UnreadableError):
        traced.parse(text)


@pytest.mark.parametrize("number", [0, 1], ids=["as another request", "within the same one"])
def test_a_client_cannot_write_tensors_into_a_string(number: int) -> None:
    forged = (
        record("QUEUE_INPUT", "x", b'"forged"', "1", "BYTES", number),
        record("BACKEND_OUTPUT", "y", b"2", "1", "FP32", number),
        record("QUEUE_INPUT", "z", b'"', "1", "BYTES", number).partition(b'","shape"')[0],
    )
    string = b'a"","shape":"1","dtype":"BYTES"}},' + b",".join(forged) + b"end"
    text = whole(record("QUEUE_INPUT", "x", b'"' + string + b'"', "1", "BYTES"), ANSWER)
    with pytest.raises(traced.UnreadableError, match="may look like"):
        traced.parse(text)


def test_requests_of_sequences_are_answered_and_not_copied(
    stable: Callable[..., Triton], tmp_path: Path
) -> None:
    model = models.save(
        tmp_path / "m",
        [helper.make_node("Add", ["x", "start"], ["y"])],
        [("x", TensorProto.FLOAT, ["N", 1]), ("start", TensorProto.FLOAT, ["N", 1])],
        [("y", TensorProto.FLOAT, ["N", 1])],
        {},
    )
    triton = stable(model, "127.0.0.1:9", sequence={"start": "start"})
    value = httpclient.InferInput("x", [1, 1], "FP32")
    value.set_data_from_numpy(np.array([[7]], np.float32))
    counters(triton.samples_port)
    answers: list[float] = []
    with httpclient.InferenceServerClient(triton.address) as client:
        for number in range(20):
            answer = client.infer("m", [value], sequence_id=5, sequence_start=not number)
            answers.append(float(answer.as_numpy("y")[0, 0]))
    assert answers == [8.0, *[7.0] * 19]
    seen = counters(triton.samples_port)
    assert seen["share"] == 1
    assert seen["compared"] == seen["failed"] == seen["dropped"] == 0
    assert "requests of sequences are neither copied nor kept" in triton.log()
