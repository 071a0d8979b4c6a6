"""Makes models with TensorFlow and converts them, all in one process without network: TensorFlow takes longer
to import than a model to convert. `python tensorflow_sources.py DIRECTORY` writes answers.json there."""

import json
import sys
from pathlib import Path
from typing import Any

from longshore_optimizer.convert.lockdown import deny_network
from longshore_optimizer.convert.tensorflow_models import start_tensorflow
from longshore_optimizer.convert.worker import convert
from longshore_optimizer.modeldir import identify, locate

ROWS = 10


def main(out: Path) -> None:
    deny_network()
    tf = start_tensorflow()
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.random((ROWS, 8, 8, 3), np.float32)
    pair = {"left": rng.random((ROWS, 4), np.float32), "right": rng.random((ROWS, 3), np.float32)}
    np.savez(out / "images.npz", image=images, labels=np.zeros(ROWS, np.int64))
    np.savez(out / "pair.npz", **pair)
    np.savez(out / "wrong.npz", image=images[:, :7])

    network = _convolutions(keras)
    network.save(out / "network.keras")
    network.save(out / "network.h5")
    network.save_weights(out / "only.weights.h5")
    _lambda(keras).save(out / "lambda.keras")
    _two_in_two_out(keras).save(out / "two.keras")
    table = _table(keras)
    table.save(out / "table.keras")
    table.export(str(out / "table"), verbose=False)
    _grouped(keras).save(out / "grouped.keras")
    _augmented(keras).export(str(out / "augmented"), verbose=False)
    _any_size(keras).save(out / "free.keras")
    (out / "free.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(_any_size(keras)).convert())
    tf.saved_model.save(_pair(tf), str(out / "pair"))
    tf.saved_model.save(_reader(tf), str(out / "reader"))
    network.export(str(out / "exported"), verbose=False)
    for name, sample in (("float", None), ("int8", images)):
        (out / f"{name}.tflite").write_bytes(_tflite(tf, out / "exported", sample))
    np.save(out / "scores.npy", network(images, training=False).numpy())

    # The name says nothing: Keras and TensorFlow go by it, the user's file may be called anything.
    (out / "network.keras").rename(out / "model.bin")
    (out / "network.h5").rename(out / "model.onnx")
    cases = {
        "keras": ("model.bin", "images.npz"),
        "hdf5": ("model.onnx", "images.npz"),
        "weights": ("only.weights.h5", None),
        "lambda": ("lambda.keras", None),
        "trusted": ("lambda.keras", None),
        "two": ("two.keras", "pair.npz"),
        "pair": ("pair", "pair.npz"),
        "reader": ("reader", None),
        "exported": ("exported", "images.npz"),
        "float": ("float.tflite", "images.npz"),
        "int8": ("int8.tflite", "images.npz"),
        "free": ("free.keras", None),
        "table": ("table.keras", None),
        "table-exported": ("table", None),
        "grouped": ("grouped.keras", None),
        "augmented": ("augmented", None),
        "free-tflite": ("free.tflite", None),
        "wrong": ("model.bin", "wrong.npz"),
    }
    answers = {case: _converted(case, out / m, out / d if d else None, out) for case, (m, d) in cases.items()}
    (out / "answers.json").write_text(json.dumps(answers))


def _converted(case: str, path: Path, data: Path | None, out: Path) -> dict[str, Any]:
    source = identify(locate(path))
    answer = convert(
        {
            "model": str(source.path),
            "container": source.container,
            "format": source.format.value,
            "out": str(out / f"{case}.converted"),
            "samples": str(data) if data else None,
            "allowPickle": case == "trusted",
        }
    )
    return {"format": source.format.value, **answer.model_dump(mode="json")}


def _convolutions(keras: Any) -> Any:
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", strides=2, activation="relu")(image)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D()(x))
    x = keras.layers.Dense(6, activation="gelu")(x)
    return keras.Model(image, keras.layers.Dense(5, activation="softmax", name="scores")(x))


def _table(keras: Any) -> Any:
    """Refers to a mean and a variance that are no variables."""
    normalization = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0])
    return keras.Sequential([keras.Input((3,)), normalization, keras.layers.Dense(2)])


def _grouped(keras: Any) -> Any:
    """Keras lets XLA compile convolutions in groups."""
    return keras.Sequential([keras.Input((8, 8, 8)), keras.layers.Conv2D(8, 3, groups=4)])


def _augmented(keras: Any) -> Any:
    """Draws at random, by seeds that a SavedModel carries as variables."""
    layers = keras.layers
    return keras.Sequential([keras.Input((8, 8, 3)), layers.RandomFlip(), layers.Conv2D(2, 3)])


def _any_size(keras: Any) -> Any:
    """Takes images of any size but small ones, of which its convolutions leave nothing."""
    layers = keras.layers
    convolutions = [layers.Conv2D(4, 3, strides=2, activation="relu") for _ in range(3)]
    return keras.Sequential(
        [keras.Input((None, None, 3)), *convolutions, layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )


def _lambda(keras: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(2)])


def _two_in_two_out(keras: Any) -> Any:
    right, left = keras.Input((3,), name="right"), keras.Input((4,), name="left")
    both = keras.layers.Concatenate()([right, left])
    second, first = keras.layers.Dense(2, name="z_first")(both), keras.layers.Dense(1, name="a_second")(both)
    return keras.Model([right, left], [second, first])


def _pair(tf: Any) -> Any:
    class Pair(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = tf.Variable(tf.ones((4, 3)))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 4], tf.float32, name="left"),
                tf.TensorSpec([None, 3], tf.float32, name="right"),
            ]
        )
        def __call__(self, left: Any, right: Any) -> dict[str, Any]:
            return {"sum": left @ self.weight + right, "positive": tf.nn.relu(left - 0.5)}

    return Pair()


def _reader(tf: Any) -> Any:
    class Reader(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)}

    return Reader()


def _tflite(tf: Any, exported: Path, sample: Any) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(exported))
    if sample is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in sample)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return bytes(converter.convert())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
