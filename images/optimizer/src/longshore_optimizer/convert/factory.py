"""Builds an object with a function that the user names: `file.py:function` beside the model, or
`package.module:function` of an installed package."""

import importlib
import importlib.util
import traceback
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from longshore_optimizer.errors import Problem, Reason

Kind = TypeVar("Kind")


def build(name: str, directory: Path, kind: type[Kind], *, allow_code: bool) -> Kind:
    """Call the factory without arguments and check what it gives.

    Raises:
        Problem: InvalidRequest where the name leads nowhere or to something else, PickleNotAllowed for a
            file without the opt-in, ConversionFailed with the traceback's end where the function raises.
    """
    place, _, function = name.partition(":")
    if not place or not function.isidentifier():
        raise Problem(
            Reason.INVALID_REQUEST,
            f"the factory {name[:100]!r} is no `file.py:function` or `package.module:function`: correct it",
        )
    module = _file(place, directory, allow_code) if place.endswith(".py") else _package(place)
    found = getattr(module, function, None)
    if not callable(found):
        raise Problem(Reason.INVALID_REQUEST, f"{place} has no function {function!r}: correct the factory")
    try:
        built = found()
    except Exception as error:
        tail = "".join(traceback.format_exception(error)[-2:]).strip()[-600:]
        raise Problem(
            Reason.CONVERSION_FAILED, f"the factory {name} raised: {tail}; correct the factory"
        ) from error
    if not isinstance(built, kind):
        raise Problem(
            Reason.INVALID_REQUEST,
            f"the factory {name} gives a {type(built).__name__}, not a {kind.__name__}: correct the factory",
        )
    return built


def _file(place: str, directory: Path, allow_code: bool) -> ModuleType:
    path = (directory / place).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        raise Problem(
            Reason.INVALID_REQUEST,
            f"the factory's file {place!r} does not lie beside the model: put it there (a directory or an "
            "archive)",
        )
    if not allow_code:
        raise Problem(
            Reason.PICKLE_NOT_ALLOWED,
            f"the factory {place} is code that comes with the model: set allowPickle (--allow-pickle) if you "
            "trust it",
        )
    spec = importlib.util.spec_from_file_location("longshore_factory", path)
    if spec is None or spec.loader is None:
        raise Problem(Reason.INVALID_REQUEST, f"{place} cannot be imported: correct the factory")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        tail = "".join(traceback.format_exception(error)[-2:]).strip()[-600:]
        raise Problem(
            Reason.CONVERSION_FAILED,
            f"{place} cannot be imported: {tail}; correct the file, and put what it imports beside it",
        ) from error
    return module


def _package(place: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ImportError as error:
        raise Problem(
            Reason.INVALID_REQUEST,
            f"the factory's module {place!r} is not installed here ({error}): put a file beside the model, "
            "as in model.py:build",
        ) from error
