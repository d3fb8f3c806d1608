"""An S3 server that refuses as it is told, before moto answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pyarrow.fs as pafs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Answer = tuple[str, str]
"""Status and S3's code of an error."""
SLOW_DOWN: Answer = ("503 Slow Down", "SlowDown")
DENIED: Answer = ("403 Forbidden", "AccessDenied")


class FaultyS3:
    """The server.

    Attributes:
        refuse: given a request's method and path, what it is refused with, or None for what moto answers.
        refused: requests that were.
    """

    def __init__(self) -> None:
        self.refuse: Callable[[str, str], Answer | None] = lambda method, path: None
        self.refused = 0
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        answer = self.refuse(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if answer is None:
            return self._moto(environ, start_response)
        self.refused += 1
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, code = answer
        start_response(status, [("Content-Type", "application/xml")])
        return [f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status[4:]}</Message></Error>".encode()]


@contextmanager
def faulty_bucket(name: str) -> Iterator[tuple[FaultyS3, str]]:
    """The server with an empty bucket, and the bucket's URL with {} where the path goes; credentials must be set."""
    app = FaultyS3()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    options = f"endpoint_override=127.0.0.1:{server.port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    pafs.FileSystem.from_uri(f"s3://{name}/?{options}")[0].create_dir(name)
    try:
        yield app, f"s3://{name}/{{}}?{options}"
    finally:
        server.shutdown()
