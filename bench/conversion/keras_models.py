"""Keras networks of every usual kind of layer, in the four forms that they are saved in."""

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from longshore_optimizer.convert.tensorflow_models import start_tensorflow

from bench.conversion.outcomes import Feeds, Source, judge, tell

tf = start_tensorflow()

import keras  # noqa: E402 - TensorFlow is to be started quietly first
from keras import layers  # noqa: E402

FORMS = ("keras", "h5", "saved", "tflite")
APPLICATIONS = ("MobileNetV2", "EfficientNetB0", "DenseNet121", "NASNetMobile", "ConvNeXtTiny", "ResNet50V2")


def chain(shape: Sequence[int | None], *parts: Any, dtype: str | None = None) -> Any:
    return keras.Sequential([layers.Input(tuple(shape), dtype=dtype), *parts])


def attention() -> Any:
    tokens = layers.Input((10,), dtype="int32")
    hidden = layers.Embedding(50, 16)(tokens)
    hidden = layers.LayerNormalization()(hidden + layers.MultiHeadAttention(2, 8)(hidden, hidden))
    hidden = hidden + layers.Dense(16, "gelu")(hidden)
    return keras.Model(tokens, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(hidden)))


def two_in_two_out() -> Any:
    left, right = layers.Input((4,), name="left"), layers.Input((3,), name="right")
    both = layers.Concatenate()([left, right])
    return keras.Model(
        [left, right], [layers.Dense(1, "sigmoid", name="p")(both), layers.Dense(2, name="q")(both)]
    )


def segmentation() -> Any:
    image = layers.Input((None, None, 3))
    first = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    second = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPooling2D()(first))
    up = layers.Conv2DTranspose(8, 2, strides=2)(second)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(layers.Concatenate()([first, up])))


NETWORKS: Mapping[str, Callable[[], Any]] = {
    "perceptron": lambda: chain(
        (8,), layers.Dense(16, "relu"), layers.BatchNormalization(), layers.Dropout(0.2), layers.Dense(3)
    ),
    "table": lambda: chain(
        (3,), layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 4, 9]), layers.Dense(1)
    ),
    "category": lambda: chain(
        (1,), layers.CategoryEncoding(6, output_mode="one_hot"), layers.Dense(2), dtype="int32"
    ),
    "lstm": lambda: chain((12, 5), layers.LSTM(8, return_sequences=True), layers.LSTM(4), layers.Dense(2)),
    "lstm-any-length": lambda: chain((None, 5), layers.LSTM(8), layers.Dense(2)),
    "gru": lambda: chain((12, 5), layers.GRU(8), layers.Dense(2)),
    "bidirectional": lambda: chain((12, 5), layers.Bidirectional(layers.LSTM(8)), layers.Dense(2)),
    "recurrent": lambda: chain((12, 5), layers.SimpleRNN(8), layers.Dense(2)),
    "masked": lambda: chain(
        (12,), layers.Embedding(30, 8, mask_zero=True), layers.LSTM(4), layers.Dense(1), dtype="int32"
    ),
    "convolutions-1d": lambda: chain(
        (32, 4),
        layers.Conv1D(8, 3, activation="relu"),
        layers.MaxPooling1D(),
        layers.Conv1D(8, 3, padding="causal"),
        layers.GlobalMaxPooling1D(),
        layers.Dense(1),
    ),
    "convolutions-3d": lambda: chain(
        (8, 8, 8, 1), layers.Conv3D(4, 3, activation="relu"), layers.GlobalAveragePooling3D(), layers.Dense(2)
    ),
    "convolution-lstm": lambda: chain(
        (4, 8, 8, 2), layers.ConvLSTM2D(4, 3, padding="same"), layers.Flatten(), layers.Dense(2)
    ),
    "separable": lambda: chain(
        (16, 16, 3),
        layers.SeparableConv2D(8, 3),
        layers.DepthwiseConv2D(3),
        layers.ReLU(6.0),
        layers.LeakyReLU(),
        layers.PReLU(),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, "swish"),
    ),
    "groups": lambda: chain(
        (16, 16, 8),
        layers.Conv2D(8, 3, groups=4),
        layers.GroupNormalization(4),
        layers.Activation("mish"),
        layers.GlobalAveragePooling2D(),
    ),
    "resized": lambda: chain(
        (None, None, 3),
        layers.Resizing(16, 16),
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 3),
        layers.GlobalAveragePooling2D(),
    ),
    "upsampled": lambda: chain(
        (8, 8, 2),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.ZeroPadding2D(1),
        layers.Cropping2D(1),
        layers.Conv2D(2, 3),
    ),
    "augmented": lambda: chain(
        (8, 8, 3), layers.RandomFlip(), layers.RandomRotation(0.1), layers.Conv2D(2, 3), layers.Flatten()
    ),
    "any-size": lambda: chain(
        (None, None, 3),
        layers.Conv2D(8, 3, 2),
        layers.Conv2D(8, 3, 2),
        layers.Conv2D(8, 3, 2),
        layers.GlobalAveragePooling2D(),
    ),
    "pictures-over-time": lambda: chain(
        (5, 8, 8, 3),
        layers.TimeDistributed(layers.Conv2D(4, 3)),
        layers.TimeDistributed(layers.GlobalAveragePooling2D()),
        layers.LSTM(4),
    ),
    "einsum": lambda: chain(
        (6, 8),
        layers.EinsumDense("abc,cd->abd", output_shape=(None, 4), bias_axes="d"),
        layers.Permute((2, 1)),
        layers.Reshape((24,)),
        layers.RepeatVector(2),
    ),
    "bytes": lambda: chain(
        (16, 16, 3),
        layers.Rescaling(1 / 127.5, -1),
        layers.Conv2D(4, 3),
        layers.GlobalAveragePooling2D(),
        dtype="uint8",
    ),
    "attention": attention,
    "two-in-two-out": two_in_two_out,
    "segmentation": segmentation,
}


def sources(folder: Path) -> Iterator[Source | tuple[str, str, str]]:
    """Every network in every form; what Keras itself cannot save comes as network, form and reason."""
    applications = {n: lambda n=n: getattr(keras.applications, n)(weights=None) for n in APPLICATIONS}
    for name, make in (NETWORKS | applications).items():
        keras.utils.set_random_seed(0)
        network = make()
        for form in FORMS:
            path = folder / f"{name}.{form}"
            try:
                _save(network, form, path)
            except Exception as error:  # noqa: BLE001 - what Keras cannot save is none of ours
                yield name, form, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                continue
            yield Source("Keras", name, form, path, _rows(network), _answer(network))


def _save(network: Any, form: str, path: Path) -> None:
    if form == "saved":
        network.export(path, verbose=False)
    elif form == "tflite":
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    else:
        network.save(path)


def _rows(network: Any) -> Callable[[int], Feeds]:
    def rows(count: int) -> Feeds:
        rng = np.random.default_rng(zlib.crc32(network.name.encode()) + count)
        result = {}
        for given in network.inputs:
            shape = (count, *(40 if size is None else size for size in given.shape[1:]))
            whole = np.dtype(given.dtype).kind in "iu"
            values = rng.integers(0, 6, shape) if whole else rng.standard_normal(shape)
            result[given.name] = values.astype(given.dtype)
        return result

    return rows


def _answer(network: Any) -> Callable[[Feeds], list[Any]]:
    def answer(feeds: Feeds) -> list[Any]:
        given = [feeds[i.name] for i in network.inputs]
        found = network(given if len(given) > 1 else given[0], training=False)
        return [np.asarray(value) for value in tf.nest.flatten(found)]

    return answer


def main() -> None:
    """Print an outcome a line."""
    with tempfile.TemporaryDirectory() as name:
        for source in sources(Path(name)):
            if isinstance(source, Source):
                tell(judge(source, Path(name)))


if __name__ == "__main__":
    main()
