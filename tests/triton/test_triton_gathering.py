"""What a copy of a model waits for before its next batch: pure decisions, in C, on made-up arrivals."""

import ctypes
import subprocess
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from longshore_triton import gathering, modelconfig
from longshore_triton.modelconfig import ModelConfig

from tests.server import models
from tests.triton.harness import Triton
from tests.tritonhome import ROOT

BATCH = 400_000
"""Nanoseconds that a batch takes."""


class Budget(ctypes.Structure):
    _fields_ = (("credit", ctypes.c_int64), ("at", ctypes.c_int64))


class Wait(ctypes.Structure):
    _fields_ = (("until", ctypes.c_int64), ("longest", ctypes.c_int64), ("quiet", ctypes.c_int64))


class Gather:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._decide, self._lost = library.longshore_gather, library.longshore_gather_lost
        self._decide.restype = Wait
        self._decide.argtypes = [ctypes.POINTER(Budget), *[ctypes.c_int64] * 5]
        self._lost.restype = None
        self._lost.argtypes = [ctypes.POINTER(Budget), ctypes.c_int64]
        self._budget = Budget()

    def decide(self, now: int, before: int, after: int, most: int = 32, batch: int = BATCH) -> Wait:
        wait = self._decide(self._budget, now, before, after, most, batch)
        assert isinstance(wait, Wait)
        return wait

    def lost(self, waited: int) -> None:
        self._lost(self._budget, waited)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("triton")
    subprocess.run([ROOT / "images/triton/preload/build.sh", built], check=True)
    return built


@pytest.fixture
def gather(home: Path) -> Gather:
    return Gather(ctypes.CDLL(str(home / gathering.LIBRARY)))


def test_a_client_that_is_alone_is_never_waited_for(gather: Gather) -> None:
    assert gather.decide(1, before=1, after=0).until == 0


@pytest.mark.parametrize(("before", "after", "until"), [(8, 0, 8), (32, 11, 32), (40, 8, 32), (40, 33, 0)])
def test_it_waits_for_those_that_were_answered_up_to_the_largest_batch(
    gather: Gather, before: int, after: int, until: int
) -> None:
    assert gather.decide(1, before, after).until == until


def test_it_gives_up_after_half_of_a_batch_without_a_request(gather: Gather) -> None:
    assert gather.decide(1, 8, 0).quiet == BATCH // 2
    long = gather.decide(2, 8, 0, batch=1_000_000_000)
    assert (long.quiet, long.longest) == (500_000, 2_000_000)


def test_clients_that_never_come_back_lose_a_fiftieth_of_the_time(gather: Gather) -> None:
    now = lost = 0
    second = 1_000_000_000
    while now < 10 * second:
        now += BATCH
        wait = gather.decide(now, before=8, after=2)
        if wait.until:
            gather.lost(wait.quiet)
            now += wait.quiet
            lost += wait.quiet
    assert 0.1 * second < lost <= 0.02 * now + 21_000_000


def test_it_waits_again_once_clients_come_back(gather: Gather) -> None:
    gather.decide(1, 8, 2)
    gather.lost(50_000_000)
    assert gather.decide(2, 8, 2).until == 0
    assert gather.decide(3_000_000_000, 8, 2).until == 8


def _config() -> ModelConfig:
    config = modelconfig.empty()
    config.dynamic_batching.SetInParent()
    config.parameters["joined_rows"].string_value = "16"
    config.instance_group.add(kind=modelconfig.kind("CPU"), count=1)
    return config


def test_the_library_is_loaded_before_others_with_the_largest_batch(home: Path) -> None:
    found = gathering.environment({"LD_PRELOAD": "other.so", "A": "b"}, home, [_config()])
    library = home / gathering.LIBRARY
    assert found == {"LD_PRELOAD": f"{library}:other.so", "LONGSHORE_GATHER": "16", "A": "b"}


def _delay(config: ModelConfig) -> None:
    config.dynamic_batching.max_queue_delay_microseconds = 100


def _queue(config: ModelConfig) -> None:
    config.dynamic_batching.default_queue_policy.max_queue_size = 4


def _copies(config: ModelConfig) -> None:
    config.instance_group[0].count = 2


def _gpu(config: ModelConfig) -> None:
    config.instance_group[0].kind = modelconfig.kind("GPU")


def _cache(config: ModelConfig) -> None:
    config.response_cache.enable = True


def _unbounded(config: ModelConfig) -> None:
    del config.parameters["joined_rows"]


def _single(config: ModelConfig) -> None:
    config.ClearField("dynamic_batching")


@pytest.mark.parametrize("change", [_delay, _queue, _copies, _gpu, _cache, _unbounded, _single])
def test_nothing_is_loaded_where_its_counts_would_not_hold(
    home: Path, change: Callable[[ModelConfig], None]
) -> None:
    config = _config()
    change(config)
    assert gathering.environment({"A": "b"}, home, [config]) == {"A": "b"}


def test_nothing_is_loaded_for_several_models_or_from_an_image_without_it(home: Path, tmp_path: Path) -> None:
    assert gathering.environment({}, home, [_config(), _config()]) == {}
    assert gathering.environment({}, tmp_path, [_config()]) == {}


def test_clients_at_once_are_all_answered_by_a_server_that_gathers(tmp_path: Path) -> None:
    values = ", ".join(["1"] * 16)
    tensor = f'{{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [{values}]}}'
    body = f'{{"inputs": [{tensor}]}}'.encode()
    with Triton(models.mlp(tmp_path / "mlp"), tmp_path, name="mlp", cpu_millicores=1000) as server:
        process = Path("/proc", str(server.process.pid))
        children = process.joinpath("task", process.name, "children").read_text().split()
        assert any(gathering.LIBRARY.name in Path("/proc", pid, "maps").read_text() for pid in children)

        def ask(_: int) -> bytes:
            url = f"http://{server.address}/v2/models/mlp/infer"
            with urllib.request.urlopen(url, data=body, timeout=10) as answer:
                return bytes(answer.read())

        with ThreadPoolExecutor(4) as threads:
            assert len(set(threads.map(ask, range(40)))) == 1
