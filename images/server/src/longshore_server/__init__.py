"""The model server of Longshore: Open Inference Protocol on ONNX Runtime."""
