"""Inputs from requests that were recorded beside the model: what it must be able to answer."""

import logging
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import orjson

from longshore_server.dtypes import Array
from longshore_server.errors import RequestError
from longshore_server.inference import assemble
from longshore_server.samples import LARGEST
from longshore_server.session import Signature, TensorSpec
from longshore_server.values import from_json
from longshore_server.warmup import Attempts, Inputs, Run, Sample

_log = logging.getLogger(__name__)

_TRIED = 6
"""Requests asked before the model counts as one that answers none: one row may be odd, six are not."""


def find_recorded(signature: Signature, run: Run, file: Path) -> Sample | Attempts | None:
    """Give the first of the recorded requests that the model answers, or what it said to them.

    None: the file holds no request for a model of this signature.
    """
    asked = list(islice(_requests(signature, file), _TRIED))
    last = ""
    for inputs in asked:
        try:
            run(inputs)
        except RequestError as error:
            last = error.message
        else:
            return Sample(inputs, tuple(other for other in asked if _shapes(other) == _shapes(inputs)))
    return Attempts((), last) if asked else None


def _shapes(inputs: Inputs) -> list[tuple[int, ...]]:
    return [array.shape for array in inputs]


def _requests(signature: Signature, file: Path) -> Iterator[Inputs]:
    try:
        with file.open("rb") as stream:
            while line := stream.readline(LARGEST):
                yield _inputs(signature, orjson.loads(line))
    except OSError as error:
        _log.warning("cannot read %s: %s", file, error.strerror)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, RequestError) as error:
        _log.warning("%s is not used: it holds no requests for this model (%s)", file, error)


def _inputs(signature: Signature, request: Any) -> Inputs:
    tensors = {tensor["name"]: tensor for tensor in request["inputs"]}
    return tuple(_array(spec, tensors[spec.name]) for spec in signature.inputs)


def _array(spec: TensorSpec, tensor: Any) -> Array:
    shape: tuple[int, ...] = tuple(tensor["shape"])
    payload = from_json(spec.name, spec.datatype, shape, prod(shape), tensor["data"])
    return assemble(spec.datatype, shape, [payload])
