"""Turns `hf://` uris into the download URLs of the Hugging Face hub."""

from urllib.parse import quote

from longshore_optimizer.errors import Problem, Reason
from longshore_optimizer.fetch.uri import Uri


def hub_url(uri: Uri, endpoint: str) -> str:
    """Give the URL of one file: `hf://owner/name[@revision]/path/in/repository`.

    The form of the URL is the hub's `/{repository}/resolve/{revision}/{path}`
    (https://huggingface.co/docs/huggingface_hub/guides/download); the revision defaults to `main`.

    Raises:
        Problem: UnsupportedUri where no file is named.
    """
    parts = [p for p in uri.path.split("/") if p]
    if len(parts) < 2:
        raise Problem(
            Reason.UNSUPPORTED_URI,
            f"{uri.text} names no file: write hf://owner/name/path/model.onnx, with @revision after the name "
            "to pin a version",
        )
    name, _, revision = parts[0].partition("@")
    path = "/".join(parts[1:])
    repository = quote(f"{uri.host}/{name}")
    return f"{endpoint}/{repository}/resolve/{quote(revision or 'main', safe='')}/{quote(path)}"
