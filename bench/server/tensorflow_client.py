"""TensorFlow Serving's own gRPC client against a running server: `tensorflow_client.py GRPC_PORT`, in an
environment of its own.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

PORT = int(sys.argv[1])
rows = np.arange(48, dtype=np.float32).reshape(3, 16) / 48
with grpc.insecure_channel(f"127.0.0.1:{PORT}") as channel:
    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "small"
    request.model_spec.signature_name = "serving_default"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(rows))
    answer = service.Predict(request, timeout=10)
    together = tf.make_ndarray(answer.outputs["y"])
    assert together.shape == (3, 8), together.shape
    assert answer.model_spec.name == "small"
    one_by_one = []
    for row in rows:
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(row.tolist(), dtype=tf.float32, shape=[1, 16]))
        one_by_one.append(tf.make_ndarray(service.Predict(request, timeout=10).outputs["y"]))
    np.testing.assert_allclose(np.concatenate(one_by_one), together, atol=1e-5)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(0.5, dtype=tf.float32, shape=[2, 16]))
    assert tf.make_ndarray(service.Predict(request, timeout=10).outputs["y"]).shape == (2, 8)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(rows.astype(np.float64)))
    refusal = service.Predict.future(request, timeout=10).exception()
    assert refusal.code() == grpc.StatusCode.INVALID_ARGUMENT, refusal
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "small"
    found = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, timeout=10)
    assert found.model_version_status[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
