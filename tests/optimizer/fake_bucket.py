"""As much of S3 as reading and writing objects takes, in a thread; signatures are not checked."""

import hashlib
import http.server
import threading
import urllib.parse
from xml.sax.saxutils import escape


class FakeBucket:
    """Objects in a dictionary; `order` names them as they were written."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.order: list[str] = []
        bucket = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_PUT(self) -> None:
                key = self.key()
                bucket.objects[key] = self.rfile.read(int(self.headers["Content-Length"]))
                bucket.order.append(key)
                self.answer(200)

            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                if "list-type" in query:
                    self.answer(200, bucket.listing(query.get("prefix", [""])[0]))
                elif self.key() in bucket.objects:
                    self.answer(200, bucket.objects[self.key()])
                else:
                    self.answer(404)

            do_HEAD = do_GET  # noqa: N815 - the base class calls these names

            def key(self) -> str:
                return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).removeprefix("/bucket/")

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def listing(self, prefix: str) -> bytes:
        rows = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{len(v)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag></Contents>"
            for k, v in sorted(self.objects.items())
            if k.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
