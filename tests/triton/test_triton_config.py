"""The configuration that Longshore writes, and what becomes of one that the user brought."""

from typing import Any

import pytest
from longshore_triton import modelconfig
from longshore_triton.complete import complete
from longshore_triton.curve import BatchPlan, Point, plan
from longshore_triton.errors import StartError
from longshore_triton.generate import REQUEST_ROWS, generate
from longshore_triton.probe import Facts
from longshore_triton.tensors import Signature, Tensor
from longshore_triton.wanted import Wanted, WantedSequence, parse

SIGNATURE = Signature((Tensor("x", "FP32", ("N", 4)),), (Tensor("y", "INT64", ("N", 2)),))
FIXED = Signature((Tensor("x", "FP32", (1, 4)),), (Tensor("y", "INT64", (1, 2)),))
BATCHES = Facts(batches=True, sizes=1, seconds=0.001, size_bytes=1000)
SINGLE = Facts(batches=False, sizes=1, seconds=0.001, size_bytes=1000)
PLAN = BatchPlan(32, (8, 16, 32))


def made(
    signature: Signature = SIGNATURE, facts: Facts = BATCHES, batches: BatchPlan = PLAN, **wanted: Any
) -> Any:
    return generate("digits", "onnxruntime", signature, facts, batches, Wanted(name="digits", **wanted))


def completed(text: str, signature: Signature = SIGNATURE, facts: Facts = BATCHES, **wanted: Any) -> Any:
    asked = Wanted(name="digits", **wanted)
    generated = generate("digits", "onnxruntime", signature, facts, PLAN, asked)
    return complete(text, generated, signature, facts, PLAN, asked, "digits", "onnxruntime")


class TestGenerated:
    def test_tells_the_signature_without_the_batch(self) -> None:
        config = made()
        assert (config.name, config.backend, config.max_batch_size) == ("digits", "onnxruntime", 4096)
        assert [(t.name, modelconfig.dtype_of(t.data_type), list(t.dims)) for t in config.input] == [
            ("x", "FP32", [4])
        ]
        assert [(t.name, modelconfig.dtype_of(t.data_type), list(t.dims)) for t in config.output] == [
            ("y", "INT64", [2])
        ]

    def test_batches_by_the_plan_and_the_serving_block(self) -> None:
        batching = made(batches=BatchPlan(32, (8, 32), delay_us=500), queue=77).dynamic_batching
        assert list(batching.preferred_batch_size) == [8, 32]
        assert batching.max_queue_delay_microseconds == 500
        assert batching.default_queue_policy.max_queue_size == 77

    def test_the_queue_is_bounded_only_where_the_spec_bounds_it(self) -> None:
        assert not made().dynamic_batching.HasField("default_queue_policy")

    def test_sizes_that_the_user_names_win(self) -> None:
        assert list(made(preferred_batch_sizes=(4, 64)).dynamic_batching.preferred_batch_size) == [4, 32]

    def test_requests_are_joined_up_to_the_size_of_the_spec_though_one_may_be_larger(self) -> None:
        config = made(batches=BatchPlan(16, ()))
        assert config.max_batch_size == REQUEST_ROWS
        assert list(config.dynamic_batching.preferred_batch_size) == [16]

    def test_with_a_delay_the_size_of_the_spec_bounds_what_is_joined(self) -> None:
        native = made(batches=BatchPlan(16, (8,), delay_us=500))
        assert native.max_batch_size == 16
        assert "joined_rows" not in native.parameters
        splits = made(batches=BatchPlan(16, (8,), delay_us=500, splits=True))
        assert splits.max_batch_size == REQUEST_ROWS
        assert splits.parameters["joined_rows"].string_value == "16"

    def test_a_model_without_batch_keeps_its_whole_shape(self) -> None:
        config = made(FIXED, SINGLE)
        assert config.max_batch_size == 0
        assert list(config.input[0].dims) == [1, 4]
        assert not config.HasField("dynamic_batching")

    def test_a_vector_of_the_batch_is_reshaped(self) -> None:
        signature = Signature((Tensor("x", "FP32", ("N",)),), (Tensor("y", "FP32", ("N",)),))
        config = made(signature)
        assert list(config.input[0].dims) == [1]
        assert config.input[0].HasField("reshape")
        assert list(config.input[0].reshape.shape) == []

    @pytest.mark.parametrize(
        ("facts", "wanted", "count", "threads"),
        [
            (BATCHES, {"cpu_millicores": 4000}, 4, "1"),
            (BATCHES, {"cpu_millicores": 500}, 1, "1"),
            (BATCHES, {"cpu_millicores": 500, "queue": 100}, 2, "1"),
            (Facts(True, 1, seconds=0.1, size_bytes=10), {"cpu_millicores": 1000}, 1, "1"),
            (Facts(True, 1, seconds=0.1, size_bytes=10), {"cpu_millicores": 4000}, 2, "2"),
            (
                Facts(True, 1, 0.001, size_bytes=1 << 30),
                {"cpu_millicores": 4000, "memory_bytes": 4 << 30},
                1,
                "4",
            ),
            (BATCHES, {"cpu_millicores": 4000, "instances": 2}, 2, "2"),
        ],
    )
    def test_copies_follow_cores_time_and_memory(
        self, facts: Facts, wanted: dict[str, int], count: int, threads: str
    ) -> None:
        config = made(facts=facts, **wanted)
        (group,) = config.instance_group
        assert (group.kind, group.count) == (modelconfig.kind("CPU"), count)
        assert config.parameters["intra_op_thread_count"].string_value == threads

    def test_gpus_get_one_copy_each(self) -> None:
        (group,) = made(gpus=2).instance_group
        assert (group.kind, list(group.gpus), group.count) == (modelconfig.kind("GPU"), [0, 1], 1)

    def test_accelerators(self) -> None:
        (tensorrt,) = made(
            gpus=1, accelerator="TensorRT"
        ).optimization.execution_accelerators.gpu_execution_accelerator
        assert tensorrt.name == "tensorrt"
        (openvino,) = made(
            accelerator="OpenVINO"
        ).optimization.execution_accelerators.cpu_execution_accelerator
        assert openvino.name == "openvino"
        with pytest.raises(StartError, match="needs a GPU"):
            made(accelerator="TensorRT")

    def test_cache_limiter_versions_and_warm_up(self) -> None:
        config = made(
            cache_bytes=1 << 20, rate_resources={"R": 2}, rate_priority=3, latest_versions=4, warmup=5
        )
        assert config.response_cache.enable
        assert [(r.name, r.count) for r in config.instance_group[0].rate_limiter.resources] == [("R", 2)]
        assert config.instance_group[0].rate_limiter.priority == 3
        assert config.version_policy.latest.num_versions == 4
        assert [(s.batch_size, s.count) for s in config.model_warmup] == [(1, 5), (32, 5)]
        assert list(config.model_warmup[0].inputs["x"].dims) == [4]

    def test_no_warm_up_where_no_shape_is_known_or_none_is_wanted(self) -> None:
        assert not made(facts=Facts(True, None)).model_warmup
        assert not made(warmup=0).model_warmup

    def test_sequences(self) -> None:
        signature = Signature(
            (
                Tensor("x", "FP32", ("N", 4)),
                Tensor("start", "FP32", ("N", 1)),
                Tensor("id", "UINT64", ("N", 1)),
            ),
            SIGNATURE.outputs,
        )
        config = made(
            signature, sequence=WantedSequence("Oldest", 1_000_000, start="start", correlation="id")
        )
        assert [t.name for t in config.input] == ["x"]
        controls = config.sequence_batching.control_input
        assert [c.name for c in controls] == ["start", "id"]
        assert list(controls[0].control[0].fp32_false_true) == [0, 1]
        assert modelconfig.dtype_of(controls[1].control[0].data_type) == "UINT64"
        assert config.sequence_batching.oldest.max_candidate_sequences == 32
        with pytest.raises(StartError, match="names the input begin"):
            made(signature, sequence=WantedSequence(start="begin"))

    def test_reads_back_as_it_was_written(self) -> None:
        config = made(cache_bytes=1, warmup=1)
        assert modelconfig.parse(modelconfig.render(config), "here") == config


class TestPlan:
    CURVE = tuple(Point(rows, 0.001 + 0.0001 * rows) for rows in (1, 2, 4, 8, 16, 32, 64))

    def test_prefers_the_smallest_that_reaches_nearly_the_best_throughput(self) -> None:
        points = [Point(1, 0.0010), Point(8, 0.0020), Point(16, 0.0034), Point(32, 0.0067)]
        assert plan(points, 32, None) == BatchPlan(32, (16,))

    def test_prefers_none_where_more_rows_gain_nothing(self) -> None:
        assert plan([Point(1, 0.001), Point(2, 0.002), Point(4, 0.0039)], 4, None) == BatchPlan(4, ())

    def test_bounds_the_batch_by_the_objective(self) -> None:
        found = plan(self.CURVE, 64, 0.006)
        assert found.most == 16
        assert found.preferred == (16,)

    def test_one_row_where_nothing_meets_the_objective(self) -> None:
        assert plan(self.CURVE, 64, 0.001) == BatchPlan(1, ())

    def test_says_nothing_where_nothing_was_measured(self) -> None:
        assert plan((), 16, 0.1) == BatchPlan(16, ())


class TestCompleted:
    def test_an_empty_file_becomes_the_generated_one(self) -> None:
        config = completed("")
        generated = made()
        assert (config.input, config.output) == (generated.input, generated.output)
        assert config.max_batch_size == generated.max_batch_size
        assert config.dynamic_batching == generated.dynamic_batching
        assert config.model_warmup == generated.model_warmup

    def test_what_it_says_is_kept(self) -> None:
        config = completed(
            'name: "theirs" max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 9 }\n'
            'instance_group { count: 3 kind: KIND_CPU } parameters { key: "k" value { string_value: "v" } }\n'
            'input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] }'
        )
        assert (config.name, config.max_batch_size) == ("digits", 4)
        assert config.dynamic_batching.max_queue_delay_microseconds == 9
        assert config.instance_group[0].count == 3
        assert config.parameters["k"].string_value == "v"
        assert list(config.input[0].dims) == [-1]
        assert [t.name for t in config.output] == ["y"]

    def test_whole_dims_mean_no_batch(self) -> None:
        config = completed(
            'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }\n'
            'output { name: "y" data_type: TYPE_INT64 dims: [ -1, 2 ] }'
        )
        assert config.max_batch_size == 0
        assert not config.HasField("dynamic_batching")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (
                'input { name: "z" data_type: TYPE_FP32 dims: [ 4 ] }',
                "input z is not in the model, whose inputs are x",
            ),
            ('input { name: "x" data_type: TYPE_INT8 dims: [ 4 ] }', "INT8 there and FP32 in the model"),
            (
                'max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [ 4, 4 ] }',
                "has 2 dimensions there and 1",
            ),
            ('input { name: "x" data_type: TYPE_FP32 dims: [ 5 ] }', r"has dims \[5\] there and \[4\]"),
            ('output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }', "output y is FP32 there and INT64"),
            ('backend: "tensorrt"', "backend tensorrt and the files are of onnxruntime"),
            ('platform: "tensorflow_savedmodel"', "backend tensorflow and the files are of onnxruntime"),
            ("max_batch_size: 0 dynamic_batching { }", "dynamic_batching needs a max_batch_size"),
            (
                "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
                "preferred_batch_size 8 is above",
            ),
            ("instance_group { kind: KIND_GPU }", "wants a GPU and the pod has none"),
        ],
    )
    def test_contradictions_are_named(self, text: str, says: str) -> None:
        with pytest.raises(StartError, match=says) as error:
            completed(text)
        assert error.value.reason == "ConfigContradictsModel"

    def test_a_batch_that_the_model_cannot_take_is_named(self) -> None:
        with pytest.raises(StartError, match="takes no batch"):
            completed("max_batch_size: 8", FIXED, SINGLE)

    def test_all_contradictions_are_told_at_once(self) -> None:
        with pytest.raises(StartError, match=r"count 3 and serving.triton.instances 2; .*INT8"):
            completed(
                'input { name: "x" data_type: TYPE_INT8 dims: [ 4 ] }\n'
                "instance_group { count: 3 kind: KIND_CPU }",
                instances=2,
            )

    def test_a_typing_error_is_told_with_its_line(self) -> None:
        with pytest.raises(StartError, match=r"config.pbtxt of model digits cannot be read: 2:1") as error:
            completed("max_batch_size: 1\nmax_bach: 3")
        assert error.value.reason == "ConfigInvalid"


def test_the_request_of_a_later_operator_is_understood() -> None:
    wanted = parse('{"name": "digits", "gpus": 1, "sequence": {"start": "s", "later": 1}, "later": {}}')
    assert (wanted.gpus, wanted.sequence) == (1, WantedSequence(start="s"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 3, "sequence": "x"}'])
def test_a_request_that_is_none_is_told(text: str) -> None:
    with pytest.raises(StartError, match="LONGSHORE_TRITON"):
        parse(text)
