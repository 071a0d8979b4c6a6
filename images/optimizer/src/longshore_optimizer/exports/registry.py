"""Which exporter writes which format; one is imported only when it is asked for."""

import importlib

from longshore.api.optimize import Export

from longshore_optimizer.exports.base import Exporter

EXPORTERS: dict[Export, tuple[str, str, str | None]] = {
    Export.ORT: ("ort_format", "OrtFormat", None),
    Export.TFLITE: ("tflite", "TfLite", "tensorflow"),
    Export.TFLITE_FLOAT16: ("tflite", "TfLiteFloat16", "tensorflow"),
    Export.TFLITE_INT8: ("tflite", "TfLiteInt8", "tensorflow"),
    Export.EXECUTORCH: ("executorch", "ExecuTorch", "executorch"),
    Export.TORCHSCRIPT_LITE: ("torchscript_lite", "TorchScriptLite", "pytorch"),
    Export.TENSORRT: ("tensorrt", "TensorRt", None),
    Export.CORE_ML: ("core_ml", "CoreMl", "coreml"),
    Export.OPENVINO: ("openvino_ir", "OpenVino", "openvino"),
}
"""Module, class, and the extra of this package that it needs."""


def exporter(export: Export) -> Exporter:
    """Import an exporter.

    Raises:
        ModuleNotFoundError: what it needs is not installed.
    """
    module, name, _ = EXPORTERS[export]
    found: Exporter = getattr(importlib.import_module(f"longshore_optimizer.exports.{module}"), name)()
    return found
