"""PyTorch networks of every usual kind of module, exported with free and fixed batches and as TorchScript."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bench.conversion.outcomes import BATCHES, Feeds, Source, judge, tell

FORMS = ("exported", "exported-for-one-row", "torchscript")
Given = tuple[torch.Tensor, ...]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 1)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(16, 5))

    def forward(self, image: Any) -> Any:
        hidden = self.stem(image)
        return self.head(functional.hardswish(hidden + self.block(hidden)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells = kind(5, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, steps: Any) -> Any:
        return self.head(self.cells(steps)[0][:, -1])


class Streaming(nn.Module):
    """Takes and gives a state of which rows are not the leading axis."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(5, 8, num_layers=2, batch_first=True)

    def forward(self, steps: Any, state: Any) -> Any:
        return self.cells(steps, state)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.tokens = nn.Embedding(50, 16)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Any) -> Any:
        hidden = self.layers(self.tokens(tokens))
        return {"pooled": hidden.mean(1), "hidden": hidden}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joint = nn.Linear(16, 48)

    def forward(self, hidden: Any) -> Any:
        rows, length, _ = hidden.shape
        query, key, value = self.joint(hidden).reshape(rows, length, 3, 4, 4).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return functional.rms_norm(found.transpose(1, 2).reshape(rows, length, 16), (16,))


class Segmentation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.shuffle = nn.Sequential(nn.Conv2d(8, 16, 1), nn.PixelShuffle(2))

    def forward(self, image: Any) -> Any:
        hidden = functional.gelu(self.down(image))
        wide = functional.interpolate(hidden, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.cat([self.up(hidden), self.shuffle(hidden), wide], 1), hidden.argmax(1)


class Selection(nn.Module):
    def forward(self, scores: Any, mask: Any) -> Any:
        hidden = scores.masked_fill(mask == 0, -1e4).softmax(-1)
        best, where = hidden.topk(3, -1)
        return best.cumsum(-1), where, torch.where(hidden > 0.1, hidden, hidden * 0).sum(-1)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, 12, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(12, 8, size, padding=size // 2) for size in (3, 5))
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Any) -> Any:
        hidden = self.tokens(tokens).transpose(1, 2)
        return self.head(torch.cat([f(hidden).relu().amax(-1) for f in self.filters], 1)).log_softmax(-1)


def _floats(*shape: int) -> Callable[[int], torch.Tensor]:
    return lambda rows: torch.randn(rows, *shape)


def _tokens(length: int) -> Callable[[int], torch.Tensor]:
    return lambda rows: torch.randint(0, 50, (rows, length))


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[Callable[[int], torch.Tensor], ...]]] = {
    "residual": (Residual, (_floats(3, 16, 16),)),
    "lstm": (lambda: Recurrent(nn.LSTM), (_floats(7, 5),)),
    "gru": (lambda: Recurrent(nn.GRU), (_floats(7, 5),)),
    "streaming": (Streaming, (_floats(7, 5), lambda rows: torch.randn(2, rows, 8))),
    "encoder": (Encoder, (_tokens(9),)),
    "attention": (Attention, (_floats(9, 16),)),
    "segmentation": (Segmentation, (_floats(3, 16, 16),)),
    "selection": (Selection, (_floats(10), lambda rows: torch.ones(rows, 10, dtype=torch.int64))),
    "text": (Text, (_tokens(12),)),
}


def sources(folder: Path) -> Iterator[tuple[Source, tuple[int, ...]]]:
    """Every network in every form that it can take, with the batches to compare on."""
    for name, (make, inputs) in NETWORKS.items():
        torch.manual_seed(0)
        network = make().eval()
        names = list(network.forward.__annotations__)[: len(inputs)]
        for form in FORMS:
            # Of a state, rows lie on its second axis: a stream is served for one.
            if name == "streaming" and form != "exported-for-one-row":
                continue
            path = folder / f"{name}.{form}"
            given = tuple(make_one(1 if form == "exported-for-one-row" else 4) for make_one in inputs)
            _save(network, form, given, path)
            samples = folder / f"{name}.npz"
            np.savez(samples, **{n: make_one(8).numpy() for n, make_one in zip(names, inputs, strict=True)})
            yield (
                Source(
                    "PyTorch",
                    name,
                    form,
                    path,
                    _rows(names, inputs),
                    _answer(network),
                    samples if form == "torchscript" else None,
                ),
                (1,) if form == "exported-for-one-row" else BATCHES,
            )


def _save(network: nn.Module, form: str, given: Given, path: Path) -> None:
    with torch.no_grad():
        if form == "torchscript":
            torch.jit.trace(network, given, strict=False, check_trace=False).save(str(path))
            return
        free = None
        if form == "exported":
            free = tuple({0: torch.export.Dim("rows")} for _ in given)
        torch.export.save(torch.export.export(network, given, dynamic_shapes=free), path)


def _rows(names: list[str], inputs: tuple[Callable[[int], torch.Tensor], ...]) -> Callable[[int], Feeds]:
    return lambda rows: {n: make_one(rows).numpy() for n, make_one in zip(names, inputs, strict=True)}


def _answer(network: nn.Module) -> Callable[[Feeds], list[Any]]:
    def answer(feeds: Feeds) -> list[Any]:
        with torch.no_grad():
            found = network(*(torch.from_numpy(array) for array in feeds.values()))
        return [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(found)]

    return answer


def main() -> None:
    """Print an outcome a line."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for source, batches in sources(Path(name)):
            tell(judge(source, Path(name), batches))


if __name__ == "__main__":
    main()
