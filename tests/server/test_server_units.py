"""Small decisions, as tables."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longshore_server import cgroup, compression, onnxfile
from longshore_server.artifact import locate
from longshore_server.dtypes import bf16_to_float, float_to_bf16, pack_bytes, unpack_bytes
from longshore_server.errors import RequestError
from longshore_server.sizing import Measured, Sizing, choose
from longshore_server.tracing import parse_traceparent

from tests.server import models


@pytest.mark.parametrize(
    ("processors", "measured", "wanted", "expected"),
    [
        (1.0, None, Sizing(0, 0), Sizing(1, 1)),
        (0.5, None, Sizing(0, 0), Sizing(1, 1)),
        (1.9, None, Sizing(0, 0), Sizing(1, 1)),
        (4.0, Measured(0.001, 0.001), Sizing(0, 0), Sizing(4, 1)),
        (4.0, Measured(0.050, 0.015), Sizing(0, 0), Sizing(1, 4)),
        (4.0, Measured(0.050, 0.049), Sizing(0, 0), Sizing(4, 1)),
        (4.0, None, Sizing(0, 0), Sizing(1, 4)),
        (4.0, Measured(0.001, 0.001), Sizing(2, 0), Sizing(2, 2)),
        (4.0, Measured(0.001, 0.001), Sizing(0, 2), Sizing(2, 2)),
        (4.0, None, Sizing(3, 5), Sizing(3, 5)),
    ],
)
def test_sizing(processors: float, measured: Measured | None, wanted: Sizing, expected: Sizing) -> None:
    assert choose(processors, 1 << 20, None, measured, wanted) == expected


@pytest.mark.parametrize(
    ("processors", "measured", "expected"),
    [
        (2.0, Measured(0.004, 0.002), Sizing(1, 2)),
        (2.0, Measured(0.004, 0.0035), Sizing(1, 2)),
        (2.0, Measured(0.004, 0.0041), Sizing(2, 1)),
        (4.0, Measured(0.004, 0.001), Sizing(4, 1)),
    ],
)
def test_what_was_timed_with_all_threads_keeps_them_unless_one_is_faster(
    processors: float, measured: Measured, expected: Sizing
) -> None:
    assert choose(processors, 1 << 20, None, measured, Sizing(0, 0), timed_threads=2) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ('{"threads": 2}', 2),
        ('{"threads": null}', 0),
        ('{"threads": "2"}', 0),
        ("{}", 0),
        ("[]", 0),
        ("null", 0),
    ],
)
def test_the_manifest_tells_the_threads_that_were_timed(
    tmp_path: Path, environment: str, expected: int
) -> None:
    models.mlp(tmp_path)
    (tmp_path / "manifest.json").write_text(f'{{"chosen": "static-int8", "environment": {environment}}}')
    found = locate(tmp_path)
    assert (found.chosen, found.timed_threads) == ("static-int8", expected)


def test_a_model_that_fills_the_memory_is_not_loaded_once_for_each_processor() -> None:
    small = Measured(0.001, 0.001)
    assert choose(4, 300 << 20, 1 << 30, small, Sizing(0, 0)) == Sizing(1, 4)
    assert choose(4, 3 << 20, 1 << 30, small, Sizing(0, 0)) == Sizing(4, 1)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_limits_of_cgroup_version_2(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "self": "0::/kubepods/pod1/c1\n",
            "fs/cpu.max": "max 100000\n",
            "fs/kubepods/pod1/cpu.max": "50000 100000\n",
            "fs/kubepods/pod1/c1/cpu.max": "200000 100000\n",
            "fs/kubepods/pod1/c1/memory.max": "1073741824\n",
            "fs/kubepods/memory.max": "max\n",
        },
    )
    assert cgroup.cpu_limit(tmp_path / "fs", tmp_path / "self") == 0.5
    assert cgroup.memory_limit(tmp_path / "fs", tmp_path / "self") == 1 << 30


def test_limits_of_cgroup_version_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "self": "4:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n",
            "fs/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "75000\n",
            "fs/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n",
            "fs/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "fs/memory/docker/x/memory.limit_in_bytes": "536870912\n",
            "fs/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert cgroup.cpu_limit(tmp_path / "fs", tmp_path / "self") == 0.75
    assert cgroup.memory_limit(tmp_path / "fs", tmp_path / "self") == 512 << 20


def test_no_cgroup_means_no_limit(tmp_path: Path) -> None:
    assert cgroup.cpu_limit(tmp_path, tmp_path / "none") >= 1
    assert cgroup.memory_limit(tmp_path, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=0.1, deflate;q=0.9", "deflate"),
        ("gzip;q=0", ""),
        ("br, zstd", ""),
        ("gzip;q=x", ""),
    ],
)
def test_the_coding_is_the_client_s_choice(accept: str, coding: str) -> None:
    assert compression.choose(accept) == coding


def test_a_compressed_bomb_is_refused() -> None:
    bomb = compression.compress("gzip", bytes(10 << 20))
    assert len(bomb) < 1 << 16
    with pytest.raises(RequestError, match="larger than the limit"):
        compression.decompress("gzip", bomb, 1 << 20)
    with pytest.raises(RequestError, match="truncated"):
        compression.decompress("gzip", bomb[:-4], 1 << 30)
    with pytest.raises(RequestError, match="follows"):
        compression.decompress("gzip", bomb + b"x", 1 << 30)


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", True),
        ("00-" + "a" * 32 + "-" + "b" * 16 + "-00", False),
        ("01-" + "a" * 32 + "-" + "b" * 16 + "-01-more", True),
    ],
)
def test_trace_parents(value: str, sampled: bool) -> None:
    parent = parse_traceparent(value)
    assert parent is not None
    assert (parent.trace_id, parent.sampled) == (int("a" * 32, 16), sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "b" * 16 + "-01-more",
        "00-" + "A" * 32 + "-" + "b" * 16 + "-01",
    ],
)
def test_bad_trace_parents_are_ignored(value: str) -> None:
    assert parse_traceparent(value) is None


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_is_the_nearest(values: list[float]) -> None:
    import ml_dtypes
    import numpy as np

    array = np.array(values, np.float32)
    got = bf16_to_float(float_to_bf16(array))
    np.testing.assert_array_equal(got, array.astype(ml_dtypes.bfloat16).astype(np.float32))


@given(st.lists(st.binary(max_size=20)))
def test_bytes_tensors_come_back(elements: list[bytes]) -> None:
    assert unpack_bytes(pack_bytes(elements), len(elements)) == elements


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_no_file_makes_the_scan_of_models_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"scan-{random.random()}"
    path.write_bytes(data)
    try:
        onnxfile.external_data(path)
    except onnxfile.NotOnnxError:
        pass
    finally:
        path.unlink()
