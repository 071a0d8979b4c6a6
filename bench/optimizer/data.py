"""The bench's data: photographs, lines of text and sentences, made from what packages ship."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

_TEXT = """
the cluster serves a model while operators watch latency and cost of every request in production today we ship
small changes often because large ones break things nobody expected to break before winter a kitten sleeps on
the warm sofa and children play football in the garden prices of oil fell sharply after the meeting of
ministers
"""
WORDS = _TEXT.split()


def photographs(packages: Path, count: int, seed: int) -> np.ndarray[Any, Any]:
    """Crops of the two photographs that scikit-learn ships, mirrored and resized: (count, 3, 224, 224)."""
    sys.path.append(str(packages))
    import sklearn.datasets
    from PIL import Image

    rng = np.random.default_rng(seed)
    folder = Path(sklearn.datasets.__file__).parent / "images"
    sources = [Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")]
    result = np.empty((count, 3, 224, 224), np.float32)
    for row in range(count):
        image = sources[row % 2]
        side = int(rng.integers(160, min(image.size)))
        left, top = (int(rng.integers(0, limit - side + 1)) for limit in image.size)
        crop = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BILINEAR)
        pixels = np.asarray(crop, np.float32)
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        result[row] = ((pixels - 127.0) / 128.0).transpose(2, 0, 1)
    return result


def text_images(
    packages: Path, count: int, height: int, width: int, lines: int, seed: int
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Rendered words, dark on light with noise: (count, 3, height, width) in -1..1, and what they say."""
    sys.path.append(str(packages))
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    result, said = np.empty((count, 3, height, width), np.float32), []
    for row in range(count):
        paper, ink = int(rng.integers(190, 256)), int(rng.integers(0, 70))
        image = Image.new("L", (width, height), paper)
        draw = ImageDraw.Draw(image)
        for line in range(lines):
            size = int(rng.integers(height // lines // 2, int(height / lines * 0.8)))
            text = " ".join(rng.choice(WORDS, size=max(1, int(width / size / 3))))
            said.append(text)
            draw.text(
                (int(rng.integers(0, 12)), line * height // lines + 2),
                text,
                ink,
                ImageFont.load_default(size),
            )
        pixels = np.asarray(image, np.float32) + rng.normal(0, 4, (height, width))
        result[row] = (pixels / 255.0 - 0.5) / 0.5
    return result, said


def sentences(vocabulary: Path, count: int, length: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Token ids and masks of made-up sentences, each padded to `length` tokens."""
    index = {word: i for i, word in enumerate(vocabulary.read_text().splitlines())}
    rng = np.random.default_rng(seed)
    ids = np.zeros((count, length), np.int64)
    mask = np.zeros((count, length), np.int64)
    for row in range(count):
        words = rng.choice(WORDS, size=int(rng.integers(4, length - 2)))
        tokens = [index["[CLS]"], *(index.get(w, index["[UNK]"]) for w in words), index["[SEP]"]]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def classes_of(texts: list[str], characters: list[str]) -> np.ndarray[Any, Any]:
    """Numbers of the characters of each text (n, longest), 0 behind its end; class 0 is the blank.

    A space is the class behind all others, as PaddleOCR appends it to the characters.
    """
    known = {character: number for number, character in enumerate([*characters, " "], start=1)}
    result = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in enumerate(texts):
        result[row, : len(text)] = [known[c] for c in text]
    return result
