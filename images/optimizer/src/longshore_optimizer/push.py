"""`longshore push`: puts a model or its data into a registry, as an image that a kubelet can mount."""

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from longshore_optimizer.errors import Problem, Reason, exit_code


def command(
    path: Annotated[Path, typer.Argument(help="Model or data file, or a directory.", exists=True)],
    uri: Annotated[str, typer.Argument(help="Where to: oci://host/repository:tag.")],
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="The registry speaks HTTP without TLS.")
    ] = False,
    docker_config: Annotated[
        Path, typer.Option(help="Credentials, as `docker login` writes them.", envvar="DOCKER_CONFIG")
    ] = Path("~/.docker"),
    onto: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE", help="Image of Longshore's server: push one image of server and model instead."
        ),
    ] = None,
) -> None:
    """Push a model or data set to a registry; prints the uri with its digest, for `model.uri`.

    A single .onnx file becomes the image's `model.onnx`, so that pods can serve the image as it is. The same
    content gives the same digest. With --onto the image serves the model wherever containers run.
    """
    try:
        print(asyncio.run(push(path, uri, plain_http, docker_config.expanduser(), onto)))  # noqa: T201
    except Problem as problem:
        typer.secho(f"{problem.reason}: {problem.message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(exit_code(problem.reason)) from None


async def push(
    path: Path,
    uri: str,
    plain_http: bool = False,
    docker_config: Path | None = None,
    onto: str | None = None,
) -> str:
    """Push a file or directory as an image of one layer, or as the topmost of the image `onto`; gives
    `oci://host/repository@sha256:...`.

    Raises:
        Problem: UnsupportedUri, AccessDenied, FetchFailed or StoreFailed.
    """
    from longshore_optimizer.fetch.credentials import Credentials
    from longshore_optimizer.fetch.registry import Registry, parse_reference
    from longshore_optimizer.fetch.settings import FetchSettings
    from longshore_optimizer.fetch.uri import parse
    from longshore_optimizer.store.layer import as_json, pack, write
    from longshore_optimizer.store.registry import image_manifest
    from longshore_optimizer.store.serving_image import put_image

    target = parse(uri)
    if target.scheme != "oci":
        raise Problem(Reason.UNSUPPORTED_URI, f"{uri} names no registry: write oci://host/repository:tag")
    reference = parse_reference(target)
    if reference.digest:
        raise Problem(
            Reason.UNSUPPORTED_URI, f"{uri} names a digest, which follows from the content: write a tag"
        )
    settings = FetchSettings()
    if plain_http:
        settings = replace(settings, plain_http_hosts=frozenset({reference.host}))
    file = docker_config / "config.json" if docker_config else None
    known = {"config.json": file.read_text()} if file and file.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if onto is not None:
            directory, login = _directory(path, scratch), Credentials(known)
            return await put_image(onto, directory, reference, reference.version, settings, login, scratch)
        layer = await asyncio.to_thread(lambda: pack(_directory(path, scratch), scratch / "layer.tar"))
        config = write(scratch / "config.json", as_json(_config(layer.digest)))
        async with Registry(reference, settings, Credentials(known)) as registry:
            await registry.push_blob(layer.path, layer.digest)
            await registry.push_blob(config.path, config.digest)
            digest = await registry.push_manifest(image_manifest(layer, config), reference.version)
    return reference.with_digest(digest)


def _directory(path: Path, scratch: Path) -> Path:
    """Give the directory whose files become the layer."""
    if path.is_dir():
        return path
    directory = scratch / "content"
    directory.mkdir()
    shutil.copyfile(path, directory / ("model.onnx" if path.suffix == ".onnx" else path.name))
    return directory


def _config(diff_id: str) -> dict[str, object]:
    """Config of the image; without `rootfs.diff_ids` a kubelet cannot unpack it.

    https://github.com/opencontainers/image-spec/blob/main/config.md
    """
    return {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
