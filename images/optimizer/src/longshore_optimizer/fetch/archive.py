"""Unpacks tar and zip archives from hostile hands: no path out, no links, no devices, no bombs."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.settings import FetchSettings
from longshore_optimizer.fetch.sink import disk_problem, too_large

_RATIO = 1000
_RATIO_FLOOR = 64 << 20
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_directory: bool
    unsafe: str | None


Members = Generator[tuple[_Member, IO[bytes]], None, None]


def is_tar(path: Path) -> bool:
    """Tell whether a file is a tar archive, plain or compressed with gzip, bzip2 or xz."""
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError):
        return False


def is_zip(path: Path) -> bool:
    """Tell whether a file is a zip archive; a tar whose last member is one (an `.npz`) looks like one too."""
    return zipfile.is_zipfile(path) and not is_tar(path)


def extract(archive: Path, destination: Path, settings: FetchSettings) -> None:
    """Unpack an archive into `destination` (made if absent).

    Raises:
        Problem: UnsafeArchive for a member that would leave the directory, a link, a device or a bomb;
            TooLarge, Truncated or DiskFull.
    """
    destination.mkdir(parents=True, exist_ok=True)
    budget = min(settings.max_bytes, max(_RATIO_FLOOR, archive.stat().st_size * _RATIO))
    try:
        if is_zip(archive):
            with zipfile.ZipFile(archive) as bundle:
                _unpack(_zip_members(bundle), destination, settings, budget)
        else:
            with tarfile.open(archive) as bundle_tar:
                _unpack(_tar_members(bundle_tar), destination, settings, budget)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise Problem(
            Reason.TRUNCATED, f"the archive {archive.name} is damaged ({error}): build and upload it again"
        ) from error


def extract_tar_stream(
    stream: IO[bytes], name: str, destination: Path, settings: FetchSettings, size: int
) -> None:
    """Unpack a tar (compressed or not) that is already open; `size` is that of the compressed bytes."""
    destination.mkdir(parents=True, exist_ok=True)
    budget = min(settings.max_bytes, max(_RATIO_FLOOR, size * _RATIO))
    try:
        with tarfile.open(fileobj=stream) as bundle:
            _unpack(_tar_members(bundle), destination, settings, budget)
    except (tarfile.TarError, EOFError) as error:
        raise Problem(Reason.TRUNCATED, f"the layer {name} is damaged ({error}): push it again") from error


def _tar_members(bundle: tarfile.TarFile) -> Members:
    for info in bundle:
        unsafe = None
        if info.issym() or info.islnk():
            unsafe = "is a link"
        elif not (info.isreg() or info.isdir()):
            unsafe = "is a device or another special file"
        stream = bundle.extractfile(info) if info.isreg() else None
        yield _Member(info.name, info.size, info.isdir(), unsafe), stream or io.BytesIO()


def _zip_members(bundle: zipfile.ZipFile) -> Members:
    for info in bundle.infolist():
        mode = info.external_attr >> 16
        unsafe = "is a link" if stat.S_ISLNK(mode) else "is encrypted" if info.flag_bits & 1 else None
        if unsafe or info.is_dir():
            yield _Member(info.filename, info.file_size, info.is_dir(), unsafe), io.BytesIO()
            continue
        with bundle.open(info) as stream:
            yield _Member(info.filename, info.file_size, False, None), stream


def _unpack(members: Members, destination: Path, settings: FetchSettings, budget: int) -> None:
    written = 0
    # Closed by hand: an abandoned generator would keep its archive member open.
    with closing(members):
        for number, (member, stream) in enumerate(members, start=1):
            if number > settings.max_files:
                raise Problem(
                    Reason.UNSAFE_ARCHIVE,
                    f"the archive holds more than {settings.max_files} files: remove what is not needed",
                )
            target = _safe_target(member, destination)
            if member.is_directory:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            written += _copy(stream, target, budget - written, settings)


def _safe_target(member: _Member, destination: Path) -> Path:
    path = PurePosixPath(member.name)
    reason = member.unsafe
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
        reason = "points outside the archive"
    if reason is not None:
        raise Problem(
            Reason.UNSAFE_ARCHIVE,
            f"the archive's member {member.name[:200]!r} {reason}: build the archive from plain files only",
        )
    return destination.joinpath(*path.parts)


def _copy(stream: IO[bytes], target: Path, budget: int, settings: FetchSettings) -> int:
    size = 0
    try:
        with target.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                if size > budget:
                    if budget < settings.max_bytes - size:
                        raise Problem(
                            Reason.UNSAFE_ARCHIVE,
                            f"the archive unpacks to more than {_RATIO} times its size: build it again "
                            "without "
                            "such compression",
                        )
                    raise too_large("the unpacked archive", settings.max_bytes)
                file.write(chunk)
    except OSError as error:
        raise disk_problem(error, str(target.name)) from error
    return size


def flatten(directory: Path) -> None:
    """Move a lone top folder's content up, so that `name-1.0/model.onnx` is found as `model.onnx`."""
    entries = list(directory.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        inner = entries[0].rename(directory / ".flatten")
        for path in inner.iterdir():
            shutil.move(path, directory / path.name)
        inner.rmdir()
