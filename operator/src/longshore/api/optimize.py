"""`spec.optimize`: what may be done to the model, and the proof that it still answers well."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from longshore.api.base import Duration, Part, Quantity, Rule, Sha256
from longshore.api.model import SecretReference, Uri
from longshore.api.resources import Resources


class Goal(StrEnum):
    """What a candidate is chosen by, among those that pass every gate."""

    LATENCY = "Latency"
    THROUGHPUT = "Throughput"
    SIZE = "Size"
    COST = "Cost"


class TechniqueName(StrEnum):
    """Families of techniques that may be tried; Auto stands for all that apply."""

    AUTO = "Auto"
    GRAPH = "Graph"
    FLOAT16 = "Float16"
    BFLOAT16 = "BFloat16"
    DYNAMIC_INT8 = "DynamicInt8"
    STATIC_INT8 = "StaticInt8"
    WEIGHT_ONLY = "WeightOnly"
    SMOOTH_QUANT = "SmoothQuant"
    QUANTIZATION_AWARE_TRAINING = "QuantizationAwareTraining"
    UNSTRUCTURED_PRUNING = "UnstructuredPruning"
    STRUCTURED_PRUNING = "StructuredPruning"
    DISTILLATION = "Distillation"
    LOW_RANK = "LowRank"
    WEIGHT_SHARING = "WeightSharing"
    COMPACT_CONVOLUTION = "CompactConvolution"
    ARCHITECTURE_SEARCH = "ArchitectureSearch"
    CASCADE = "Cascade"


_TRAINS = frozenset(
    {
        TechniqueName.QUANTIZATION_AWARE_TRAINING,
        TechniqueName.DISTILLATION,
        TechniqueName.COMPACT_CONVOLUTION,
        TechniqueName.ARCHITECTURE_SEARCH,
    }
)


class Metric(StrEnum):
    """What evaluation measures. Agreement is the cosine of candidate and original; it needs no labels."""

    ACCURACY = "Accuracy"
    TOP5 = "Top5"
    PRECISION = "Precision"
    RECALL = "Recall"
    F1 = "F1"
    ROC_AUC = "RocAuc"
    MAE = "MeanAbsoluteError"
    RMSE = "RootMeanSquaredError"
    R2 = "R2"
    AGREEMENT = "Agreement"
    WORD_ERROR_RATE = "WordErrorRate"
    CHARACTER_ERROR_RATE = "CharacterErrorRate"
    MEAN_AVERAGE_PRECISION = "MeanAveragePrecision"
    CUSTOM = "Custom"


class Export(StrEnum):
    """Formats written beside the served model, for edge and mobile targets."""

    TFLITE = "TFLite"
    TFLITE_FLOAT16 = "TFLiteFloat16"
    TFLITE_INT8 = "TFLiteInt8"
    EXECUTORCH = "ExecuTorch"
    TORCHSCRIPT_LITE = "TorchScriptLite"
    OPENVINO = "OpenVINO"
    ORT = "Ort"
    TENSORRT = "TensorRT"
    CORE_ML = "CoreML"


class OnMiss(StrEnum):
    """What happens when no candidate passes the gates."""

    SERVE_ORIGINAL = "ServeOriginal"
    FAIL = "Fail"


class Data(Part):
    """A `.npz` file, or a directory of such shards: arrays named by the model's inputs, and `labels`."""

    uri: Uri = Field(description="Where the data lies; the same schemes as model.uri.")
    sha256: Sha256 | None = Field(default=None, description="SHA-256 of the file; other content is refused.")
    credentials: SecretReference | None = Field(
        default=None, description="Secret for this source; absent: that of the model."
    )


class Function(Data):
    """A Python file with `metric(outputs, labels)`. Naming it lets its code run, without network."""

    sha256: Sha256 = Field(description="SHA-256 of the file; other code does not run.")


class Evaluation(Data):
    """Held-out data that decides whether a candidate is good enough; never used to calibrate."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.function) == (has(self.metric) && self.metric == 'Custom')",
            "metric: Custom and evaluation.function belong together: give both or neither",
            lambda e: (e.function is not None) == (e.metric is Metric.CUSTOM),
        ),
    )

    metric: Metric = Field(default=Metric.ACCURACY, description="What is measured on the data.")
    max_drop: float = Field(
        default=0.01,
        ge=0,
        le=1000,
        description="Largest loss accepted, in units of the metric; its upper bound is what counts.",
    )
    confidence: float = Field(
        default=0.95, ge=0.5, le=0.9999, description="Confidence of the bound on the loss, one-sided."
    )
    function: Function | None = Field(
        default=None, description="What computes metric Custom: a number, or one a sample; higher is better."
    )


class Training(Data):
    """Data that techniques with training may use."""

    epochs: int = Field(default=10, ge=1, le=1000, description="Most passes over the data for one candidate.")
    teacher: Uri | None = Field(
        default=None, description="Teacher for distillation; absent: the original model."
    )
    student: Uri | None = Field(
        default=None,
        description="Student for distillation, trained before or not; absent: made from the original model.",
    )


class Limits(Part):
    """Bounds that a chosen candidate must keep."""

    p95: Duration | None = Field(
        default=None, description="Highest 95th percentile of latency at batch 1 on the serving pod's CPU."
    )
    size: Quantity | None = Field(default=None, description="Largest size of the served model, in bytes.")


class Budget(Part):
    """How long the search may go on; the best found so far is always returned."""

    trials: int = Field(default=40, ge=1, le=10000, description="Most candidates that are measured.")
    time: Duration = Field(default="30m", description="Longest time for the whole Job, such as 30m.")


class Optimize(Part):
    """What may be done to the model. An empty object means: try what applies, keep the proof."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.onMiss) || self.onMiss != 'Fail' || has(self.evaluation) || has(self.limits)",
            "onMiss: Fail needs something to miss: add optimize.evaluation or optimize.limits",
            lambda o: o.on_miss is not OnMiss.FAIL or o.evaluation is not None or o.limits is not None,
        ),
        Rule(
            "!has(self.techniques) || !self.techniques.exists(t, t == 'Auto') || size(self.techniques) == 1",
            "techniques: Auto stands alone: remove it, or remove the others",
            lambda o: TechniqueName.AUTO not in o.techniques or len(o.techniques) == 1,
        ),
        Rule(
            "!has(self.techniques) || has(self.training) || !self.techniques.exists(t, "
            "t in ['QuantizationAwareTraining', 'Distillation', 'CompactConvolution', 'ArchitectureSearch'])",
            "a technique that trains needs data: add optimize.training",
            lambda o: o.training is not None or not _TRAINS.intersection(o.techniques),
        ),
    )

    goal: Goal = Field(default=Goal.LATENCY, description="What the winner is chosen by.")
    techniques: Annotated[tuple[TechniqueName, ...], Field(min_length=1, max_length=16)] = Field(
        default=(TechniqueName.AUTO,), description="Techniques that may be tried; Auto: all that apply."
    )
    calibration: Data | None = Field(default=None, description="Data for calibration of static quantization.")
    evaluation: Evaluation | None = Field(
        default=None, description="Held-out data; without it only lossless steps are kept."
    )
    training: Training | None = Field(default=None, description="Data for techniques that train.")
    limits: Limits | None = Field(default=None, description="Bounds that the chosen model must keep.")
    budget: Budget = Field(default=Budget(), description="How much work the search may be.")
    parallelism: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Pods that search side by side and share what they measure through the artifact store.",
    )
    on_miss: OnMiss = Field(
        default=OnMiss.SERVE_ORIGINAL, description="What to do when no candidate passes the gates."
    )
    exports: Annotated[tuple[Export, ...], Field(max_length=9)] = Field(
        default=(), description="Formats written beside the served model."
    )
    tensor_board: bool = Field(
        default=False,
        description="Whether the artifact also holds the trials as TensorBoard events, in tensorboard/.",
    )
    resources: Resources | None = Field(
        default=None, description="Requests and limits of the Job's pod; absent: those of serving."
    )
    seed: int = Field(default=0, ge=0, le=2147483647, description="Seed of everything random.")
