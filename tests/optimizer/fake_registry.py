"""A registry in a thread: blobs and manifests in dictionaries, token authentication, faults on demand."""

import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any


class FakeRegistry:
    """An OCI registry on the loopback address; `faults` are called before each request."""

    def __init__(self, *, user: tuple[str, str] | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[Any], bool] | None = None
        self.user = user
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                registry.requests.append((self.command, self.path))
                if registry.fault is not None and registry.fault(self):
                    return
                path = urllib.parse.urlsplit(self.path)
                if path.path == "/token":
                    self.token()
                    return
                if registry.user and self.headers.get("Authorization") != "Bearer good":
                    realm = f'Bearer realm="http://{registry.host}/token",service="fake",scope="repository:x:pull"'
                    self.answer(401, WWW_Authenticate=realm)
                    return
                registry.serve(self, path, body)

            def token(self) -> None:
                import base64

                user, password = registry.user or ("", "")
                wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
                if self.headers.get("Authorization") == wanted:
                    self.answer(200, json.dumps({"token": "good"}).encode())
                else:
                    self.answer(401)

            # The base class calls these names.
            do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: Any, path: urllib.parse.SplitResult, body: bytes) -> None:
        parts = path.path.split("/")
        method = handler.command
        if "manifests" in parts:
            name = parts[-1]
            if method == "PUT":
                digest = "sha256:" + hashlib.sha256(body).hexdigest()
                self.manifests[name] = self.manifests[digest] = body
                handler.answer(201)
            elif name in self.manifests:
                handler.answer(200, self.manifests[name])
            else:
                handler.answer(404)
        elif method == "POST" and (mounted := urllib.parse.parse_qs(path.query).get("mount")):
            handler.answer(201 if mounted[0] in self.blobs else 202, Location=f"{path.path}session?state=1")
        elif method == "POST":
            handler.answer(202, Location=f"{path.path}session?state=1")
        elif method == "PUT":
            digest = urllib.parse.parse_qs(path.query)["digest"][0]
            assert "sha256:" + hashlib.sha256(body).hexdigest() == digest
            self.blobs[digest] = body
            handler.answer(201)
        elif parts[-1] in self.blobs:
            blob = self.blobs[parts[-1]]
            start = int((handler.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            handler.answer(206 if start else 200, blob[start:])
        else:
            handler.answer(404)

    def add(self, content: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"digest": digest, "size": len(content), "mediaType": "application/octet-stream"}

    def tag(self, name: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        self.manifests[name] = self.manifests[digest] = body
        return digest
