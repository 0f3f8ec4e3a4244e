"""An S3-compatible store in memory: what a client needs to read and write objects."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class StubStore(ThreadingHTTPServer):
    """One bucket.

    Attributes
    ----------
    objects
        Contents by path, the bucket first.
    written
        Paths in the order they were written.
    """

    def __init__(self, bucket: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.written: list[str] = []
        self.parts: dict[str, dict[int, bytes]] = {}
        self.is_refusing = False

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving_store(bucket: str) -> Iterator[StubStore]:
    """Serve a store on a thread."""
    with StubStore(bucket) as store:
        thread = threading.Thread(target=store.serve_forever)
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: StubStore
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(
        self, status: int, body: bytes = b"", length: int | None = None, etag: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Content-Type", "application/xml")
        if etag:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[str, dict[str, list[str]], bytes]:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            body = _decoded(body)
        query = parse_qs(parts.query, keep_blank_values=True)
        return unquote(parts.path).strip("/"), query, body

    def _find(self) -> None:
        path, query, _ = self._asked()
        if self.server.is_refusing:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif "list-type" in query:
            self._answer(
                200, b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
                b"</ListBucketResult>",
            )  # fmt: skip
        elif path in self.server.objects:
            content = self.server.objects[path]
            etag = hashlib.md5(content).hexdigest()
            if "Range" in self.headers and content:
                first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                self._answer(206, content[int(first) : int(last) + 1], etag=etag)
            else:
                self._answer(200, content, etag=etag)
        elif path == self.server.bucket:
            self._answer(200)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    do_GET = do_HEAD = _find  # noqa: N815

    def do_PUT(self) -> None:
        path, query, body = self._asked()
        if self.server.is_refusing:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        if "partNumber" in query:
            upload = self.server.parts.setdefault(query["uploadId"][0], {})
            upload[int(query["partNumber"][0])] = body
        else:
            self._keep(path, body)
        self._answer(200, etag=hashlib.md5(body).hexdigest())

    def do_POST(self) -> None:
        path, query, _ = self._asked()
        if self.server.is_refusing:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif "uploads" in query:
            self._answer(
                200, b"<InitiateMultipartUploadResult><UploadId>"
                + hashlib.sha256(path.encode()).hexdigest().encode()
                + b"</UploadId></InitiateMultipartUploadResult>",
            )  # fmt: skip
        else:
            parts = self.server.parts.pop(query["uploadId"][0], {})
            self._keep(path, b"".join(parts[number] for number in sorted(parts)))
            self._answer(
                200, b"<CompleteMultipartUploadResult><ETag>e</ETag>"
                b"</CompleteMultipartUploadResult>",
            )  # fmt: skip

    def _keep(self, path: str, body: bytes) -> None:
        self.server.objects[path] = body
        self.server.written.append(path)


def _decoded(body: bytes) -> bytes:
    """Return the content of a body in signed chunks."""
    content = b""
    while body:
        head, _, rest = body.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            break
        content += rest[:size]
        body = rest[size + 2 :]
    return content
