"""Stores that answer slowly, badly or not at all; servers of S3 and of Google Cloud Storage."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from reformer_dist.data.preparing.corpus import Corpus
from reformer_dist.data.preparing.manifest import MANIFEST
from reformer_dist.data.reading.files import PatientFile, open_bytes
from reformer_dist.errors import ConfigError
from reformer_dist.storage import stores
from reformer_dist.storage.stores import below, is_below, open_store, parted
from tests.corpora import prepare_here, random_documents, write_documents
from tests.storage.faulty_s3 import DENIED, SLOW_DOWN, FaultyS3, faulty_bucket

CONTENT = b"one line of text\n" * 5000


class Unreliable(BaseHTTPRequestHandler):
    """Serves CONTENT; each kind of refusal as often as its number says."""

    refusals = 0
    cut_offs = 0
    delay = 0.0

    def do_GET(self) -> None:
        cls = type(self)
        time.sleep(cls.delay)
        if cls.refusals:
            cls.refusals -= 1
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.command == "GET":
            half = len(CONTENT) // 2
            self.wfile.write(CONTENT[:half])
            if cls.cut_offs:
                cls.cut_offs -= 1
                self.close_connection = True
            else:
                self.wfile.write(CONTENT[half:])

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(stores, "WAITS", (0.01, 0.01))
    Unreliable.refusals, Unreliable.cut_offs, Unreliable.delay = 0, 0, 0.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unreliable)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/text.txt"
    server.shutdown()
    server.server_close()


def test_a_web_server_that_refuses_twice_breaks_off_and_is_slow_is_read(url: str, tmp_path: Path) -> None:
    Unreliable.refusals, Unreliable.delay = 2, 0.2
    file = open_bytes(url, None)
    Unreliable.cut_offs = 2
    assert file.read() == CONTENT
    corpus = prepare_here(url, tmp_path)
    starts, lengths = corpus.document_starts("train"), corpus.document_lengths("train")
    assert corpus.read(starts[0], starts[0] + lengths[0]).tobytes() == CONTENT[: lengths[0]]


def test_a_web_server_that_keeps_refusing_is_named(url: str, tmp_path: Path) -> None:
    Unreliable.refusals = 1000
    with pytest.raises(ConfigError, match=rf"data\.sources = {url}: ") as caught:
        prepare_here(url, tmp_path)
    assert "\n" not in str(caught.value)
    Unreliable.refusals = 0
    file = PatientFile(url)
    Unreliable.refusals = 1000
    with pytest.raises(OSError, match=rf"data\.sources: {url} cannot be read: "):
        file.read(10)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        place = f"{server.get_host_and_port()[0]}:{server.get_host_and_port()[1]}"
        options = f"endpoint_override={place}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        pafs.FileSystem.from_uri(f"s3://bucket/?{options}")[0].create_dir("bucket")
        yield f"s3://bucket/{{}}?{options}"
        server.stop()


@pytest.fixture
def faulty(s3: str) -> Iterator[tuple[FaultyS3, str]]:
    with faulty_bucket("faulty") as found:
        yield found


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    # A process of its own: pyarrow holds the interpreter while it waits for Google Cloud Storage.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "gcp-storage-emulator"), "start", "--quiet", "--in-memory"]
    place = ["--host", "127.0.0.1", "--port", str(port), "--default-bucket", "bucket"]
    with subprocess.Popen([*command, *place]) as server:
        _wait_for(port)
        yield f"gs://anonymous@bucket/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http&retry_limit_seconds=5"
        server.terminate()


def _wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise TimeoutError(f"no server on port {port}")


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    """URL of a bucket, with {} where the path goes."""
    url: str = request.getfixturevalue(request.param)
    return url


def test_a_corpus_in_a_bucket_is_the_one_on_disk(bucket: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "s", random_documents({f"{i:02d}.txt": 500 + i for i in range(20)}))
    store = open_store(bucket.format("texts"))
    pafs.copy_files(str(source), store.path, destination_filesystem=store.filesystem)
    here = prepare_here(source, tmp_path)
    there = prepare_here(bucket.format("texts"), tmp_path)
    assert there.manifest == here.manifest

    remote = prepare_here(bucket.format("texts/*.txt"), bucket.format("runs"))
    assert remote.manifest == here.manifest
    assert Corpus.open(remote.folder).read(0, 100).tobytes() == here.read(0, 100).tobytes()
    folder = open_store(remote.folder)
    names = {info.base_name for info in folder.filesystem.get_file_info(pafs.FileSelector(folder.path))}
    assert names == {MANIFEST, *(file.name for file in remote.manifest.files)}


def test_a_corpus_in_a_bucket_without_its_manifest_is_none(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest\.json there"):
        Corpus.open(bucket.format("corpora/none"))
    with pytest.raises(ConfigError, match=r"data\.sources = (s3|gs)://.*bucket/nowhere.*: no "):
        prepare_here(bucket.format("nowhere"), tmp_path)


def test_a_corpus_in_a_bucket_that_may_not_be_written_names_the_file(
    faulty: tuple[FaultyS3, str], tmp_path: Path
) -> None:
    server, url = faulty
    source = write_documents(tmp_path / "s", random_documents({f"{i:02d}.txt": 500 + i for i in range(20)}))
    server.refuse = lambda method, path: DENIED if path.endswith(".parquet") and method != "GET" else None
    with pytest.raises(
        OSError, match=r"^train\.storage: faulty/runs/corpora/\w+/\S+\.parquet cannot be written: .*ACCESS_DENIED"
    ):
        prepare_here(source, url.format("runs"))
    server.refuse = lambda method, path: SLOW_DOWN if server.refused < 3 else None
    assert prepare_here(source, url.format("runs")).manifest == prepare_here(source, tmp_path).manifest


@pytest.mark.parametrize(
    ("folder", "inside"),
    [
        ("runs", "runs/a"),
        ("/data/runs/", "/data/runs/a"),
        ("memory://runs", "memory://runs/a"),
        ("s3://bucket/runs?region=x&scheme=http", "s3://bucket/runs/a?region=x&scheme=http"),
        ("s3://bucket/?region=x", "s3://bucket/a?region=x"),
        ("is it?/runs", "is it?/runs/a"),
    ],
)
def test_options_of_a_url_stay_at_its_end(folder: str, inside: str) -> None:
    assert below(folder, "a") == inside
    assert parted(inside) == (folder.replace("/?", "?").rstrip("/"), "a")
    assert is_below(inside, folder)
    assert not is_below(folder, inside)
