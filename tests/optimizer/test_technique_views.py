"""Views of images: only those that the original answers as before are used, and its answers averaged."""

import numpy as np
import torch
from longshore_optimizer.techniques.views import Views, harmless, mean_answer, moved
from torch import Tensor

RNG = np.random.default_rng(0)
IMAGES = torch.from_numpy(RNG.random((200, 1, 16, 16)).astype(np.float32))


def sides(feeds: dict[str, Tensor]) -> Tensor:
    """Scores by whether the left or the right half is brighter."""
    (images,) = feeds.values()
    return torch.stack([images[..., :8].mean((1, 2, 3)), images[..., 8:].mean((1, 2, 3))], 1)


def brightness(feeds: dict[str, Tensor]) -> Tensor:
    """Scores by whether the mean is over a half: no view changes much of that."""
    (images,) = feeds.values()
    mean = images.mean((1, 2, 3))
    return torch.stack([torch.full_like(mean, 0.5), mean], 1)


def test_only_views_under_which_the_original_is_right_as_often_are_harmless() -> None:
    strong = (
        IMAGES + torch.from_numpy(RNG.choice([0.0, 3.0], 200).astype(np.float32)).reshape(-1, 1, 1, 1) - 1
    )
    blind = harmless({"x": strong}, brightness({"x": strong}).argmax(1), brightness)
    assert blind == Views("x", mirrored=True, reach=1)
    half = IMAGES.clone()
    half[:100, ..., :8] += 2
    half[100:, ..., 8:] += 2
    handed = harmless({"x": half}, sides({"x": half}).argmax(1), sides)
    assert handed == Views("x", mirrored=False, reach=1)


def test_what_is_no_image_or_has_no_classes_has_no_views() -> None:
    classes = brightness({"x": IMAGES}).argmax(1)
    assert harmless({"x": IMAGES}, None, brightness) == Views()
    assert harmless({"x": IMAGES[..., :4]}, classes, brightness) == Views()
    assert harmless({"x": IMAGES, "y": IMAGES}, classes, brightness) == Views()
    # Labels that the original does not know prove nothing.
    assert harmless({"x": IMAGES}, 1 - classes, brightness) == Views()


def test_images_are_moved_by_whole_pixels_and_their_border_is_repeated() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(moved(image, 1, 0)[0, 0, 1:], image[0, 0, :3])
    assert torch.equal(moved(image, 1, 0)[0, 0, 0], image[0, 0, 0])
    assert torch.equal(moved(image, 0, -1)[0, 0, :, :3], image[0, 0, :, 1:])
    views = Views("x", mirrored=True, reach=1)
    varied = views.varied({"x": IMAGES}, np.random.default_rng(0))["x"]
    assert varied.shape == IMAGES.shape
    mirrored = Views("x", mirrored=True).varied({"x": IMAGES}, np.random.default_rng(0))["x"]
    plain = (mirrored == IMAGES).flatten(1).all(1)
    turned = (mirrored == IMAGES.flip(3)).flatten(1).all(1)
    assert (plain ^ turned).all()
    assert 50 < int(turned.sum()) < 150


def test_the_answer_is_the_mean_over_views_as_far_as_the_time_goes() -> None:
    feeds = {"x": IMAGES}
    mean = mean_answer(Views("x", mirrored=True), feeds, sides, seconds=1000.0)
    assert torch.allclose(mean[:, 0], mean[:, 1])
    asked = []

    def counted(given: dict[str, Tensor]) -> Tensor:
        asked.append(given)
        return sides(given)

    alone = mean_answer(Views("x", mirrored=True, reach=1), feeds, counted, seconds=0.0)
    assert len(asked) == 1
    assert torch.equal(alone, sides(feeds))
    mean_answer(Views("x", mirrored=True, reach=1), feeds, counted, seconds=1000.0)
    assert len(asked) == 5
