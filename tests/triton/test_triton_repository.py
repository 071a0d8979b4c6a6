"""From artifacts of every kind to the repository that Triton reads, and what is refused on the way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from longshore_triton import modelconfig
from longshore_triton.errors import StartError
from longshore_triton.repository import Repository, plan_repository
from longshore_triton.wanted import Wanted
from onnx import TensorProto, helper

from tests.server import models

HAS = frozenset({"onnxruntime", "python", "tensorflow", "pytorch"})
ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
input { name: "raw" data_type: TYPE_FP32 dims: 16 }
output { name: "answer" data_type: TYPE_FP32 dims: 8 }
ensemble_scheduling {
  step { model_name: "clean" model_version: -1 input_map { key: "x" value: "raw" } output_map { key: "y" value: "made" } }
  step { model_name: "net" model_version: -1 input_map { key: "x" value: "made" } output_map { key: "y" value: "answer" } }
}
"""  # noqa: E501

Build = Callable[..., Repository]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def plan(root: Path, has: frozenset[str] = HAS, **wanted: object) -> Repository:
        return plan_repository(root, Wanted(name="digits", **wanted), has)  # type: ignore[arg-type]

    return plan


def identity(directory: Path, width: int = 16) -> Path:
    return models.identity(directory, TensorProto.FLOAT, ("N", width))


def repository(root: Path, ensemble: str = ENSEMBLE) -> Path:
    """A repository of `clean`, `net` and an ensemble of both."""
    identity(root / "clean" / "1")
    models.mlp(root / "net" / "1")
    (root / "pipeline").mkdir()
    (root / "pipeline" / "config.pbtxt").write_text(ensemble)
    return root


def names(found: Repository) -> set[str]:
    return {model.config.name for model in found.models}


class TestOneModel:
    def test_a_file_is_linked_and_described(self, build: Build, tmp_path: Path) -> None:
        root = models.mlp(tmp_path / "artifact")
        (root / "manifest.json").write_text("{}")
        found = build(root)
        found.write(tmp_path / "repository")
        home = tmp_path / "repository" / "digits"
        assert (home / "1").resolve() == root.resolve()
        written = modelconfig.parse((home / "config.pbtxt").read_text(), "there")
        assert (written.backend, written.max_batch_size) == ("onnxruntime", 4096)
        assert found.complete

    def test_batches_only_where_rows_stay_apart(self, build: Build, tmp_path: Path) -> None:
        def shape(directory: Path, output: list[str]) -> Path:
            nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
            return models.save(
                directory,
                nodes,
                [("x", TensorProto.FLOAT, ["N", 4])],
                [("y", TensorProto.FLOAT, output)],
                {"to": np.array([-1, 2], np.int64)},
            )

        (model,) = build(shape(tmp_path / "artifact", ["M", "K"])).models
        assert model.config.max_batch_size == 0
        assert list(model.config.input[0].dims) == [-1, 4]

    def test_dynamic_sides_get_a_size_that_runs(self, build: Build, tmp_path: Path) -> None:
        root = models.save(
            tmp_path / "artifact",
            [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[20, 20])],
            [("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
            [("y", TensorProto.FLOAT, ["N", 3, "h", "w"])],
        )
        (model,) = build(root).models
        assert list(model.config.model_warmup[0].inputs["x"].dims) == [3, 32, 32]

    def test_the_version_directories_of_a_triton_model_are_kept(self, build: Build, tmp_path: Path) -> None:
        models.mlp(tmp_path / "artifact" / "3")
        models.mlp(tmp_path / "artifact" / "12")
        (model,) = build(tmp_path / "artifact", latest_versions=2).models
        assert set(model.versions) == {3, 12}
        assert model.config.version_policy.latest.num_versions == 2

    def test_formats_that_only_triton_reads_are_left_to_it(self, build: Build, tmp_path: Path) -> None:
        (tmp_path / "artifact" / "model.savedmodel").mkdir(parents=True)
        found = build(tmp_path / "artifact")
        assert found.models[0].config.platform == "tensorflow_savedmodel"
        assert not found.complete

    def test_a_pytorch_file_needs_a_config(self, build: Build, tmp_path: Path) -> None:
        (tmp_path / "artifact" / "1").mkdir(parents=True)
        (tmp_path / "artifact" / "1" / "model.pt").write_bytes(b"x")
        with pytest.raises(StartError, match="does not say what it takes") as error:
            build(tmp_path / "artifact")
        assert error.value.reason == "ConfigMissing"
        (tmp_path / "artifact" / "config.pbtxt").write_text(
            'input { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
            'output { name: "y" data_type: TYPE_FP32 dims: 1 }'
        )
        (model,) = build(tmp_path / "artifact").models
        assert (model.config.name, model.config.backend) == ("digits", "pytorch")


class TestRefused:
    @pytest.mark.parametrize(
        ("file", "reason", "says"),
        [
            ("model.plan", "BackendMissing", "tensorrt, and this image has onnxruntime, python"),
            ("model.xml", "BackendMissing", "openvino"),
            ("model.py", "CodeNotAllowed", "allowPython"),
            ("libtriton_onnxruntime.so", "CodeNotAllowed", "code that Triton would run"),
            ("net.onnx", "ModelInvalid", "must be called model.onnx"),
            ("notes.txt", "ModelMissing", "holds neither a model file"),
        ],
    )
    def test_what_cannot_be_served(
        self, build: Build, tmp_path: Path, file: str, reason: str, says: str
    ) -> None:
        (tmp_path / "artifact").mkdir()
        (tmp_path / "artifact" / file).write_bytes(b"x")
        with pytest.raises(StartError, match=says) as error:
            build(tmp_path / "artifact")
        assert error.value.reason == reason

    def test_no_mount(self, build: Build, tmp_path: Path) -> None:
        with pytest.raises(StartError, match="was not mounted"):
            build(tmp_path / "artifact")

    @pytest.mark.parametrize("target", ["/etc/passwd", "../outside"])
    def test_a_link_out_of_the_artifact(self, build: Build, tmp_path: Path, target: str) -> None:
        root = models.mlp(tmp_path / "artifact")
        (root / "weights.bin").symlink_to(target)
        with pytest.raises(StartError, match=r"weights.bin is a link that leads out"):
            build(root)

    @pytest.mark.parametrize(
        "text",
        [
            'runtime: "/tmp/evil.so"',
            'model_operations { op_library_filename: "evil.so" }',
            'model_repository_agents { agents { name: "checksum" } }',
            'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/x" } }',
        ],
    )
    def test_code_by_way_of_the_configuration(self, build: Build, tmp_path: Path, text: str) -> None:
        models.mlp(tmp_path / "artifact" / "1")
        (tmp_path / "artifact" / "config.pbtxt").write_text(text)
        with pytest.raises(StartError) as error:
            build(tmp_path / "artifact")
        assert error.value.reason == "CodeNotAllowed"
        build(tmp_path / "artifact", allow_python=True)

    def test_a_name_that_is_not_the_directorys(self, build: Build, tmp_path: Path) -> None:
        repository(tmp_path / "artifact")
        (tmp_path / "artifact" / "net" / "config.pbtxt").write_text('name: "other"')
        with pytest.raises(StartError, match="says the name other and lies in the directory net"):
            build(tmp_path / "artifact")


class TestEnsemble:
    def test_answers_under_the_deployments_name(self, build: Build, tmp_path: Path) -> None:
        assert names(build(repository(tmp_path / "artifact"))) == {"digits", "clean", "net"}

    def test_a_chain_is_made_of_the_known_names(self, build: Build, tmp_path: Path) -> None:
        root = tmp_path / "artifact"
        models.save(
            root / "preprocess" / "1",
            [helper.make_node("Relu", ["raw"], ["x"])],
            [("raw", TensorProto.FLOAT, ["N", 16])],
            [("x", TensorProto.FLOAT, ["N", 16])],
        )
        models.mlp(root / "model" / "1")
        found = build(root)
        assert names(found) == {"digits", "preprocess", "model"}
        ensemble = next(m.config for m in found.models if m.config.name == "digits")
        assert [t.name for t in ensemble.input] == ["raw"]
        assert [t.name for t in ensemble.output] == ["y"]
        assert [s.model_name for s in ensemble.ensemble_scheduling.step] == ["preprocess", "model"]

    def test_a_deployment_called_like_a_step_is_told(self, tmp_path: Path) -> None:
        for name in ("preprocess", "model"):
            identity(tmp_path / "artifact" / name / "1")
        with pytest.raises(StartError, match="rename the ModelDeployment"):
            plan_repository(tmp_path / "artifact", Wanted(name="model"), HAS)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (('model_name: "clean"', 'model_name: "gone"'), "model gone, which is not in the repository"),
            (
                ('input_map { key: "x" value: "made" }', 'input_map { key: "x" value: "lost" }'),
                "nobody makes",
            ),
            (('key: "x" value: "raw"', 'key: "z" value: "raw"'), "clean has no input z; it has x"),
            (
                ('name: "raw" data_type: TYPE_FP32', 'name: "raw" data_type: TYPE_INT8'),
                "raw is INT8 .* FP32 for clean",
            ),
            (
                ('name: "raw" data_type: TYPE_FP32 dims: 16', 'name: "raw" data_type: TYPE_FP32 dims: 9'),
                r"\[9\]",
            ),
            (('key: "x" value: "raw"', 'key: "x" value: "answer"'), "wait for each other: (net|clean)"),
            (('value: "answer" } }\n}', 'value: "made" } }\n}'), "made by net and by clean"),
            (("max_batch_size: 8", "max_batch_size: 9999"), "max_batch_size 9999 is above the 4096"),
            (('model_name: "clean"', 'model_name: "digits"'), "is the ensemble itself"),
        ],
    )
    def test_what_cannot_run_is_named(
        self, build: Build, tmp_path: Path, change: tuple[str, str], says: str
    ) -> None:
        text = ENSEMBLE.replace(*change)
        assert text != ENSEMBLE
        with pytest.raises(StartError, match=says) as error:
            build(repository(tmp_path / "artifact", text))
        assert error.value.reason == "EnsembleInvalid"

    def test_which_model_answers_must_be_clear(self, build: Build, tmp_path: Path) -> None:
        identity(tmp_path / "artifact" / "one" / "1")
        identity(tmp_path / "artifact" / "two" / "1")
        with pytest.raises(StartError, match="has the models one, two, and none says which"):
            build(tmp_path / "artifact")
        (tmp_path / "artifact" / "two").rename(tmp_path / "artifact" / "digits")
        assert names(build(tmp_path / "artifact")) == {"one", "digits"}


def test_a_model_that_kills_its_measurer_is_left_to_triton(build: Build, tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="example.org")
    root = models.save(
        tmp_path / "artifact",
        [node],
        [("x", TensorProto.FLOAT, ["N", 2])],
        [("y", TensorProto.FLOAT, ["N", 2])],
    )
    (model,) = build(root).models
    assert model.config.max_batch_size == 4096


@pytest.mark.parametrize(("asked", "delay"), [(None, 0), (0, 0), (2000, 2000)])
def test_a_request_waits_for_others_only_where_the_spec_says_so(
    tmp_path: Path, asked: int | None, delay: int
) -> None:
    """With few clients every request would wait the delay out, however short the run."""
    root = models.mlp(tmp_path / "artifact")
    (model,) = plan_repository(root, Wanted(name="digits", max_delay_us=asked), HAS, HAS).models
    batching = model.config.dynamic_batching
    assert batching.max_queue_delay_microseconds == delay
    assert len(batching.preferred_batch_size) == 1
