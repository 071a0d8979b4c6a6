"""`spec.model`: which model, and how it is known to be the right one."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from longshore.api.base import Name, Part, Rule, Sha256

URI_PATTERN = r"^(oci|s3|gs|az|hf|https|pvc)://[^\x00-\x20\x7f]+$"
Uri = Annotated[str, Field(min_length=7, max_length=2048, pattern=URI_PATTERN)]


class Format(StrEnum):
    """Formats that a model may arrive in."""

    ONNX = "Onnx"
    SCIKIT_LEARN = "ScikitLearn"
    PYTORCH = "PyTorch"
    TENSORFLOW = "TensorFlow"
    KERAS = "Keras"
    TFLITE = "TFLite"
    LIGHTGBM = "LightGBM"
    XGBOOST = "XGBoost"
    TRITON_REPOSITORY = "TritonRepository"


class SecretReference(Part):
    """A Secret in the namespace of the ModelDeployment; another namespace cannot be named."""

    secret_name: Name = Field(description="Name of a Secret in the same namespace.")


class Signature(Part):
    """How the model's signature will be checked before anything reads the model."""

    public_key: SecretReference = Field(
        description="Secret whose key `cosign.pub` holds the public key in PEM."
    )
    uri: Uri | None = Field(
        default=None, description="Where the detached signature lies; absent: beside the model, with `.sig`."
    )


class Model(Part):
    """The model to serve."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.allowPickle) || !self.allowPickle || has(self.sha256)",
            "allowPickle runs code from the file: pin the file with model.sha256",
            lambda model: not model.allow_pickle or model.sha256 is not None,
        ),
        Rule(
            "!has(self.factory) || !self.factory.matches('[.]py:') || "
            "(has(self.allowPickle) && self.allowPickle)",
            "a factory in a file runs code that comes with the model: set model.allowPickle, or name an "
            "installed package",
            lambda model: model.factory is None or ".py:" not in model.factory or model.allow_pickle,
        ),
    )

    uri: Uri = Field(
        description="Where the model lies: oci://, s3://, gs://, az://, hf://, https:// or pvc://claim/path."
    )
    format: Format | None = Field(
        default=None, description="Format of the model; absent: detected from its content."
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="SHA-256 of the file (of the image manifest for oci://); another content is refused.",
    )
    signature: Signature | None = Field(
        default=None,
        description="Signature of the model. Not checked yet: FieldsSupported says so; pin sha256.",
    )
    credentials: SecretReference | None = Field(
        default=None,
        description="Secret with what the source asks for (registry, object store, token, ca.crt).",
    )
    allow_pickle: bool = Field(
        default=False,
        description="Accept a pickle-based file. Loading a pickle runs code from the file; needs sha256.",
    )
    factory: (
        Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*:[A-Za-z_][A-Za-z0-9_]*$")]
        | None
    ) = Field(
        default=None,
        description="What builds the network of a PyTorch state_dict or safetensors file: "
        "`file.py:function` beside the model, or `package.module:function`.",
    )
