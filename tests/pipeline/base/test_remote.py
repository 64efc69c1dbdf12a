"""Paths and URLs of users: what they name, what they refuse, and that trouble is never taken for absence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import Remote, as_path

NAMES = ["a b", "q?x", "h#x", "p%41x", "s;x", "b[1]", "c::d", "ü", "~x"]  # as they stand in a directory


@pytest.mark.parametrize("name", NAMES)
def test_a_file_url_is_the_path_that_it_was_made_from(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert as_path(path.as_uri()) == as_path(str(path)) == as_path(path) == path
    assert as_path(path.as_uri().replace("file://", "file://localhost")) == path


def test_a_file_url_has_neither_query_nor_fragment_nor_host() -> None:
    assert as_path("file:///a#1/b?2") == Path("/a#1/b?2")
    for url in ("file://host/a", "file://a/b", "file://"):
        with pytest.raises(InputError, match=f"output.dir='{url}': a file URL holds an absolute path"):
            as_path(url, "output.dir")


def test_other_schemes_say_what_they_need() -> None:
    with pytest.raises(InputError, match="'s4://bucket': Protocol not known"):
        as_path("s4://bucket")
    without = "import sys; sys.modules['gcsfs'] = None; from flowpairs.pipeline.base.paths import as_path; as_path('gs://b/p')"
    out = subprocess.run([sys.executable, "-c", without], stderr=subprocess.PIPE, text=True, check=False)
    assert "pip install 'flowpairs[gcs]'" in out.stderr.splitlines()[-1]


@pytest.mark.parametrize("url", ["memory://a/b", "s3://bucket/a", "hdfs://node:8020/a", "sftp://user@host:22/a"])
def test_a_url_below_a_url_names_the_same_host(url: str) -> None:
    """What is printed, and handed to other processes, is what the user wrote."""
    below = Remote(url) / "shards" / "pairs-000000.tar"
    assert str(below) == f"{url}/shards/pairs-000000.tar"
    assert str(below.with_suffix(".json")) == f"{url}/shards/pairs-000000.json"
    assert below.name == "pairs-000000.tar"
    assert Remote(str(below)) == below


SERVER = """
import os, threading
import fsspec
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.paths import as_path

class Handler(BaseHTTPRequestHandler):  # gives one object and refuses everything else
    def do_GET(self):
        self.send_response(200 if self.path == "/bucket/there" else 403)
        self.send_header("content-length", "4" if self.path == "/bucket/there" else "0")
        self.end_headers()
        if self.path == "/bucket/there" and self.command == "GET":
            self.wfile.write(b"text")
    do_HEAD = do_GET
    def log_message(self, *parts): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"

there, secret = as_path("s3://bucket/there"), as_path("s3://bucket/secret")
assert there.read_text() == "text"
for question in (secret.exists, secret.is_file, secret.is_dir):
    try:
        print("answered", question())
    except InputError as error:
        print(error)
for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.environ["AWS_CONFIG_FILE"] = os.devnull
fsspec.get_filesystem_class("s3").clear_instance_cache()
try:
    there.read_bytes()
except InputError as error:
    print(error)
"""


def test_a_server_that_refuses_is_no_empty_directory() -> None:
    """Else a job would take a store that it cannot see for one that is not there, and write over it."""
    pytest.importorskip("s3fs")
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    command = [sys.executable, "-c", SERVER]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    *refused, keyless = out.stdout.splitlines()
    remedy = "check the URL, the network and the credentials in the environment"
    assert refused == [f"s3://bucket/secret: Forbidden; {remedy}"] * 3
    assert keyless.startswith("s3://bucket/there: ")
    assert keyless.endswith(remedy)
