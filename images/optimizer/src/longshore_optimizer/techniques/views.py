"""Views of an image that leave its class alone, as the original's own answers show.

They are more to learn from, and a teacher's mean over them is right more often than its answer to one
(Krizhevsky et al. 2012, section 5.1; Beyer et al. 2022, "A good teacher is patient and consistent").
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Feeds = Mapping[str, Tensor]
Answer = Callable[[Feeds], Tensor]
"""Gives the scores (n, classes) for inputs (n, ...)."""

_LEAST_SIDE = 14
_REACH = 1 / 14
"""Images are moved by up to this share of their shorter side."""

_MOST_CHANNELS = 4
_HARM = 0.01
"""A view is harmless where the original's accuracy falls by no more than a point."""

_TRUSTED = 0.5
"""An original with less accuracy than this proves nothing."""

_TIME_SHARE = 0.1


@dataclass(frozen=True)
class Views:
    """Harmless changes of the images in one input: mirrored left to right, moved by up to `reach` pixels."""

    name: str = ""
    mirrored: bool = False
    reach: int = 0

    def varied(self, feeds: Feeds, rng: np.random.Generator) -> dict[str, Tensor]:
        """Give a view of each image, drawn anew: some mirrored, all moved alike."""
        result = dict(feeds)
        if self.mirrored:
            images = result[self.name]
            chosen = torch.from_numpy(rng.random(len(images)) < 0.5).reshape(-1, 1, 1, 1)
            result[self.name] = torch.where(chosen, images.flip(3), images)
        if self.reach:
            down, right = (int(n) for n in rng.integers(-self.reach, self.reach + 1, 2))
            result[self.name] = moved(result[self.name], down, right)
        return result

    def fixed(self, feeds: Feeds) -> list[dict[str, Tensor]]:
        """Give the views over which a teacher's answers are averaged; the plain one first."""
        plain = dict(feeds)
        mirrored = [plain, plain | {self.name: plain[self.name].flip(3)}] if self.mirrored else [plain]
        if not self.reach:
            return mirrored
        step = (self.reach + 1) // 2
        return mirrored + [
            view | {self.name: moved(view[self.name], sign * step, step)}
            for view, sign in zip(mirrored, (1, -1), strict=False)
        ]


def moved(images: Tensor, down: int, right: int) -> Tensor:
    """Move images (n, channels, height, width) by whole pixels; the border is repeated."""
    if not down and not right:
        return images
    height, width = images.shape[2:]
    side = max(abs(down), abs(right))
    padded = functional.pad(images, (side, side, side, side), mode="replicate")
    return padded[:, :, side - down : side - down + height, side - right : side - right + width]


def harmless(feeds: Feeds, classes: Tensor | None, answer: Answer) -> Views:
    """Find the views under which the original answers labelled images as well as before.

    Where the data is not images with classes, or the original does not know the classes, there are none.
    """
    none = Views()
    if classes is None or len(feeds) != 1:
        return none
    ((name, images),) = feeds.items()
    square = images.dim() == 4 and images.shape[1] <= _MOST_CHANNELS
    if not square or min(images.shape[2:]) < _LEAST_SIDE or images.dtype != torch.float32:
        return none

    def accuracy(*views: Tensor) -> float:
        right = [(answer({name: view}).argmax(1) == classes).float().mean() for view in views]
        return float(sum(right) / len(right))

    scores = answer(feeds)
    if scores.dim() != 2 or scores.shape[1] <= int(classes.max()):
        return none
    plain = float((scores.argmax(1) == classes).float().mean())
    if plain < _TRUSTED:
        return none
    reach = int(min(images.shape[2:]) * _REACH)
    corners = [moved(images, down, right) for down, right in ((reach, reach), (-reach, -reach))]
    return Views(
        name,
        mirrored=accuracy(images.flip(3)) >= plain - _HARM,
        reach=reach if accuracy(*corners) >= plain - _HARM else 0,
    )


def mean_answer(views: Views, feeds: Feeds, answer: Answer, seconds: float) -> Tensor:
    """Give the mean of the answers over as many fixed views as a tenth of `seconds` allows, one at least."""
    started = time.monotonic()
    total: Tensor | None = None
    count = 0
    for view in views.fixed(feeds):
        given = answer(view)
        total = given if total is None else total + given
        count += 1
        spent = time.monotonic() - started
        if spent * (count + 1) / count > _TIME_SHARE * seconds:
            break
    assert total is not None
    return total / count
