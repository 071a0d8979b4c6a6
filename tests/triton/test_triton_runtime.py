"""Triton as a plug-in of the operator: what its pods are made of, what it refuses, how runtimes are found."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from longshore import runtimes
from longshore.api.parse import SpecError, parse_spec
from longshore.api.serving import RuntimeName, Serving
from longshore.resources.deployment import container_resources, pod_template
from longshore.resources.model_source import ModelSource
from longshore.resources.names import HTTP_PORT, Owner, mirror_key
from longshore.runtimes import registry
from longshore.runtimes.base import ContainerInput
from longshore.runtimes.registry import operator_ports, runtime_of, samples_port
from longshore.runtimes.triton import RUNTIME
from longshore.settings import Settings
from longshore_triton import supervise
from longshore_triton.wanted import Wanted, WantedSequence, parse

OWNER = Owner("team", "digits", "uid")


def serving(**values: Any) -> Serving:
    return parse_spec({"model": {"uri": "oci://r/m:1"}, "serving": {"runtime": "Triton", **values}}).serving


def wanted(**values: Any) -> ContainerInput:
    return ContainerInput("digits", serving(**values), Settings(), 2000)


def request(**values: Any) -> dict[str, Any]:
    (text,) = [
        e["value"] for e in RUNTIME.container(wanted(**values))["env"] if e["name"] == "LONGSHORE_TRITON"
    ]
    found: dict[str, Any] = json.loads(text)
    return found


class TestPod:
    def test_tells_metrics_and_recorded_requests_on_ports_of_their_own(self) -> None:
        ports = {p["name"]: p["containerPort"] for p in RUNTIME.container(wanted())["ports"]}
        assert ports == {"http": 8080, "grpc": 8081, "metrics": 8002, "samples": 8003}
        assert (RUNTIME.metrics.port, RUNTIME.samples_port) == (8002, 8003)
        assert operator_ports() == (8002, 8003, 8080)

    def test_is_ready_by_its_model(self) -> None:
        container = RUNTIME.container(wanted())
        assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/digits/ready"

    def test_waits_longer_where_an_engine_is_built(self) -> None:
        def patience(**values: Any) -> int:
            probe = RUNTIME.container(wanted(**values))["startupProbe"]
            return int(probe["periodSeconds"] * probe["failureThreshold"])

        gpu = {"limits": {"nvidia.com/gpu": "1"}}
        assert patience() == 900
        assert patience(triton={"accelerator": "TensorRT"}, resources=gpu) == 3600

    @pytest.mark.parametrize(
        ("values", "size"),
        [
            ({}, "192Mi"),
            ({"triton": {"instances": 8}}, "576Mi"),
            ({"batching": {"maxSize": 512}}, "1Gi"),
            ({"resources": {"limits": {"memory": "200Mi"}}}, "100Mi"),
        ],
    )
    def test_shares_memory_by_instances_and_batch_below_its_limit(
        self, values: dict[str, Any], size: str
    ) -> None:
        (volume,) = RUNTIME.volumes(wanted(**values))
        assert volume == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}}
        assert {"name": "shm", "mountPath": "/dev/shm"} in RUNTIME.container(wanted(**values))["volumeMounts"]

    def test_ends_by_itself_before_the_kubelet_ends_it(self) -> None:
        asked = request()
        clients = supervise._GRPC_AGES * parse(json.dumps(asked)).grpc_age_seconds
        ending = asked["drain_seconds"] + clients + asked["exit_seconds"] + supervise._KILL_AFTER
        assert ending < RUNTIME.grace_period(serving())

    def test_runs_the_image_that_is_named(self) -> None:
        assert RUNTIME.container(wanted())["image"] == Settings().triton_image
        assert RUNTIME.container(wanted(triton={"image": "mine:1"}))["image"] == "mine:1"

    def test_the_whole_pod_runs_restricted(self) -> None:
        template = pod_template(
            OWNER,
            "r1",
            ModelSource(parse_spec({"model": {"uri": "https://h/m.onnx"}}).model),
            serving(),
            RUNTIME,
            Settings(),
        )
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert template["spec"]["automountServiceAccountToken"] is False
        assert container["resources"] == container_resources(serving())
        asked = json.loads(next(e["value"] for e in container["env"] if e["name"] == "LONGSHORE_TRITON"))
        assert asked["samples_key"] == mirror_key(OWNER), "what the operator is known by"


class TestRequest:
    def test_is_understood_by_the_image(self) -> None:
        asked = request(
            batching={"maxSize": 16, "maxDelay": "2ms", "queue": 9},
            latencyObjective="50ms",
            resources={"limits": {"nvidia.com/mig-1g.10gb": "1", "memory": "4Gi"}},
            triton={
                "allowPython": True,
                "instances": 3,
                "preferredBatchSizes": [4, 8],
                "accelerator": "OpenVINO",
                "responseCache": "64Mi",
                "latestVersions": 2,
                "warmup": 7,
                "rateLimit": {"resources": {"R1": 4}, "priority": 2},
                "sequence": {"strategy": "Oldest", "maxIdle": "5s", "start": "START", "correlation": "ID"},
            },
        )
        assert asked.keys() <= {f.name for f in fields(Wanted)}
        assert parse(json.dumps(asked)) == Wanted(
            name="digits",
            cpu_millicores=2000,
            memory_bytes=4 << 30,
            gpus=1,
            max_batch_size=16,
            max_delay_us=2000,
            queue=9,
            objective_us=50_000,
            allow_python=True,
            instances=3,
            preferred_batch_sizes=(4, 8),
            accelerator="OpenVINO",
            cache_bytes=64 << 20,
            latest_versions=2,
            warmup=7,
            rate_resources={"R1": 4},
            rate_priority=2,
            sequence=WantedSequence("Oldest", 5_000_000, "START", None, None, "ID"),
        )

    def test_of_a_plain_spec_equals_the_images_defaults(self) -> None:
        assert parse(json.dumps(request())) == Wanted(name="digits", cpu_millicores=2000)


class TestRefusal:
    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"resources": {"limits": {"nvidia.com/mig-1g.10gb": "2"}}}, "sees only one"),
            ({"triton": {"accelerator": "TensorRT"}}, "ask for nvidia.com/gpu"),
            ({"triton": {"preferredBatchSizes": [64]}}, "raise maxSize"),
            ({"triton": {"responseCache": "4Gi"}}, "make the cache smaller"),
        ],
    )
    def test_names_the_field_and_the_next_step(self, values: dict[str, Any], says: str) -> None:
        why = RUNTIME.refuses(serving(**values))
        assert why is not None
        assert says in why

    def test_accepts_what_can_be(self) -> None:
        assert RUNTIME.refuses(serving()) is None
        gpu = {"limits": {"nvidia.com/gpu": "2"}}
        assert RUNTIME.refuses(serving(resources=gpu, triton={"accelerator": "TensorRT"})) is None

    def test_options_of_triton_on_another_runtime_are_no_spec(self) -> None:
        with pytest.raises(SpecError, match="has no effect on OnnxRuntime"):
            parse_spec({"model": {"uri": "oci://r/m:1"}, "serving": {"triton": {"instances": 2}}})


class TestRegistry:
    def test_tells_where_recorded_requests_are(self) -> None:
        found = {name: samples_port(name) for name in ("Triton", "OnnxRuntime", "of-a-later-version")}
        assert found == {"Triton": 8003, "OnnxRuntime": HTTP_PORT, "of-a-later-version": HTTP_PORT}

    def test_finds_both(self) -> None:
        assert runtime_of(RuntimeName.TRITON) is RUNTIME
        found = runtime_of(RuntimeName.ONNX_RUNTIME)
        assert found is not None
        assert found.name is RuntimeName.ONNX_RUNTIME

    def test_a_third_runtime_is_one_more_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "third_runtime.py").write_text(
            "from longshore.runtimes.triton import Triton\n"
            "class Third(Triton):\n    name = 'Third'\n"
            "RUNTIME = Third()\n"
        )
        monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(tmp_path)])
        assert set(registry.find()) == {RuntimeName.ONNX_RUNTIME, RuntimeName.TRITON, "Third"}

    def test_each_runtime_is_a_file_that_is_read_in_one_go(self) -> None:
        folder = Path(str(registry.__file__)).parent
        assert all(len(path.read_text().splitlines()) < 200 for path in folder.glob("*.py"))
