"""An HTTPS server on the node, with a certificate of its own: where users' files come from."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from e2e.kit.certificate import self_signed

LONGEST_HOLD = 120.0


@dataclass
class FileServer:
    """Serves `files` by path; what is not there is a 404."""

    address: str
    port: int
    certificate: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    held: dict[str, threading.Event] = field(default_factory=dict)

    def put(self, path: str, content: bytes) -> str:
        """Serve content; gives its address."""
        self.files[f"/{path}"] = content
        return self.url(path)

    @contextmanager
    def holding(self, path: str) -> Iterator[None]:
        """Answer nothing for a path while inside, for at most `LONGEST_HOLD` seconds a request."""
        released = self.held[f"/{path}"] = threading.Event()
        try:
            yield
        finally:
            del self.held[f"/{path}"]
            released.set()

    def url(self, path: str) -> str:
        """Give the address of a path, served or not."""
        return f"https://{self.address}:{self.port}/{path}"


@contextmanager
def serve(address: str, directory: Path) -> Iterator[FileServer]:
    """Serve on an address of this machine that pods can reach."""
    key, certificate = self_signed(x509.IPAddress(ip_address(address)))
    key_file, certificate_file = directory / "key.pem", directory / "certificate.pem"
    key_file.write_bytes(key)
    certificate_file.write_bytes(certificate)
    files: dict[str, bytes] = {}
    held: dict[str, threading.Event] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if (released := held.get(path)) is not None:
                released.wait(LONGEST_HOLD)
            content = files.get(path)
            self.send_response(200 if content is not None else 404)
            body = content if content is not None else b"not here\n"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield FileServer(address, server.server_address[1], certificate, files, held)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
