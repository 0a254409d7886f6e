"""Downloads against a small server on this machine that speaks as much of ModelScope as the client asks for."""

import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from dllm_core.common.errors import DataError
from dllm_core.data import download
from dllm_core.data.jsonl import find_data, text_documents
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer

pytest.importorskip("modelscope_hub")
CONTENT = b"".join(b'{"text": "line %d"}\n' % i for i in range(5000))


class Hub(BaseHTTPRequestHandler):
    """Lists and serves `server.files`: {"datasets/owner/name": {file: bytes}}; notes each request in `server.asked`."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.reply(200, b"", {})

    def do_GET(self):
        address = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        parts = address.path.strip("/").split("/")  # api v1 datasets owner name repo …
        files = self.server.files.get("/".join(parts[2:5]))
        self.server.asked.append((address.path, query.get("FilePath"), self.headers.get("Range")))
        if files is None:
            self.reply(404, json.dumps({"Code": 404, "Message": "not found", "Success": False}).encode(), {})
        elif parts[-1] in ("tree", "files"):
            listed = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(body), "Sha256": self.server.sha256(body)}
                for name, body in files.items()
            ]
            self.reply(200, json.dumps({"Code": 200, "Data": {"Files": listed}, "Success": True}).encode(), {})
        else:
            self.serve(self.server.served.get(query["FilePath"], files[query["FilePath"]]))

    def serve(self, body: bytes):
        wanted = self.headers.get("Range")
        if wanted is None:
            return self.reply(200, body, {})
        start = int(wanted.removeprefix("bytes=").split("-")[0])
        if start >= len(body):
            return self.reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        self.reply(206, body[start:], {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})

    def reply(self, status: int, body: bytes, headers: dict):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server; the working directory is an empty project and the client knows no other endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.files = {"datasets/someone/texts": {"train.jsonl": CONTENT}}
    server.served, server.asked = {}, []  # served: other bytes than listed
    server.sha256 = lambda body: hashlib.sha256(body).hexdigest()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    work = tmp_path / "project"
    (work / "notebooks").mkdir(parents=True)
    (work / "pyproject.toml").touch()
    monkeypatch.chdir(work)
    for name in ("CACHE", "HOME"):
        monkeypatch.setenv(f"MODELSCOPE_{name}", str(tmp_path / name))
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_and_read(hub, tmp_path):
    path = find_data("modelscope:someone/texts/train.jsonl")
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / "project/data/modelscope/datasets/someone/texts/train.jsonl"
    assert [p.name for p in path.parent.iterdir()] == ["train.jsonl"]
    requests = len(hub.asked)
    assert len(text_documents("modelscope:someone/texts/train.jsonl", character_tokenizer(["line 0"]))) == 5000
    assert len(hub.asked) == requests


def unfinished_download(content: bytes) -> Path:
    """The file of an interrupted download of train.jsonl."""
    path = download.home("datasets", "someone/texts") / "train.jsonl.incomplete"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_what_broke_off_is_resumed(hub):
    unfinished = unfinished_download(CONTENT[:1234])
    path = download.fetch_dataset_file("someone/texts", "train.jsonl")
    assert path.read_bytes() == CONTENT
    assert [range_ for _, file, range_ in hub.asked if file] == ["bytes=1234-"]
    assert not unfinished.exists()


@pytest.mark.parametrize("junk", [b"x" * 1234, b"x" * len(CONTENT), CONTENT + b"more"])
def test_a_corrupt_beginning_is_replaced(hub, monkeypatch, junk):
    quick_retries(monkeypatch)
    unfinished_download(junk)
    assert download.fetch_dataset_file("someone/texts", "train.jsonl").read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-5] + b"wrong", CONTENT[:-5], CONTENT + b"more"])
def test_contents_that_do_not_match_are_refused(hub, monkeypatch, served):
    quick_retries(monkeypatch)
    hub.served["train.jsonl"] = served
    with pytest.raises(DataError, match="someone/texts/train.jsonl: the downloaded file did not match"):
        download.fetch_dataset_file("someone/texts", "train.jsonl")
    assert not (download.home("datasets", "someone/texts") / "train.jsonl").exists()


def test_absent_files_and_data_sets(hub):
    with pytest.raises(DataError, match="no file of that name; it has: train.jsonl"):
        find_data("modelscope:someone/texts/test.jsonl")
    with pytest.raises(DataError, match="modelscope:nobody/texts/train.jsonl: not found on http"):
        find_data("modelscope:nobody/texts/train.jsonl")


def test_a_disk_too_small(hub, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match="has room for 0.00 GB"):
        find_data("modelscope:someone/texts/train.jsonl")


def test_only_the_tokenizer_of_a_model(hub, tmp_path):
    character_tokenizer(["你好"]).save_pretrained(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    hub.files["models/someone/small"] = {**files, "model.safetensors": b"weights", "README.md": b"# small"}
    tokenizer = load_tokenizer("someone/small")
    assert tokenizer.get_vocab() == character_tokenizer(["你好"]).get_vocab() and tokenizer.chat_template
    assert {file for _, file, _ in hub.asked if file} == set(files)
    requests = len(hub.asked)
    load_tokenizer("modelscope:someone/small")
    assert len(hub.asked) == requests
    with pytest.raises(DataError, match="ModelScope model nobody/small: not found on http"):
        load_tokenizer("nobody/small")
    hub.files["models/someone/bare"] = {"model.safetensors": b"weights"}
    with pytest.raises(DataError, match="someone/bare: it has no tokenizer"):
        load_tokenizer("someone/bare")


def test_half_a_tokenizer_is_none(hub, tmp_path, monkeypatch):
    quick_retries(monkeypatch)
    character_tokenizer(["你好"]).save_pretrained(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    hub.files["models/someone/small"] = files
    hub.served["tokenizer_config.json"] = b"{}"
    with pytest.raises(DataError, match="did not match"):
        load_tokenizer("someone/small")
    assert not download.home("models", "someone/small").exists()
    hub.served.clear()
    assert load_tokenizer("someone/small").mask_token_id == 3


def test_a_missing_network_is_reported_at_once(tmp_path, monkeypatch, hub):
    with socket.socket() as closed:  # a port where nobody listens
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(DataError, match="cannot reach http.*nothing was downloaded. Check the network"):
            find_data("modelscope:someone/texts/train.jsonl")
    assert not list(tmp_path.glob("project/data/**/*.jsonl"))


def test_a_silent_network_ends_in_a_timeout(monkeypatch, hub):
    monkeypatch.setattr(download, "REACH", 0.2)
    over = threading.Event()
    monkeypatch.setattr(Hub, "do_HEAD", lambda self: over.wait())  # no answer while the client waits
    with pytest.raises(DataError, match="cannot reach"):
        find_data("modelscope:someone/texts/train.jsonl")
    over.set()


def quick_retries(monkeypatch):
    """The client waits seconds between attempts; here there is nothing to wait for."""
    from modelscope_hub import _download

    monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.01)
