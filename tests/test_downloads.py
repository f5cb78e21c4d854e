"""Downloads from a server of our own that can be told to misbehave."""

import hashlib
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainables.data.downloads import DownloadError, fetch, hash_in_name, hub_file

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves BODY, by range where asked; ``server.cuts`` says after how many bytes to hang up."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.path not in self.server.files:
            return self.send_error(404)
        body = self.server.files[self.path]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(body):
            return self.send_error(416)
        if self.server.ranges and start:
            self.send_response(206)
        else:
            start = 0
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.cuts, made.asked, made.ranges = {"/weights.bin": BODY}, [], [], True
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_a_file_is_fetched_once(server, tmp_path):
    url = f"{server.url}/weights.bin"
    first = fetch(url, SHA, tmp_path / "new")
    assert first.read_bytes() == BODY
    assert fetch(url, SHA, tmp_path / "new") == first
    assert len(server.asked) == 1
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["weights.bin"]


def test_a_cut_connection_is_gone_on_with(server, tmp_path):
    server.cuts = [100_000, 1, 300_000]
    assert fetch(f"{server.url}/weights.bin", SHA, tmp_path).read_bytes() == BODY
    ranges = [asked for _, asked in server.asked]
    assert ranges == [None, "bytes=100000-", "bytes=100001-", "bytes=400001-"]


def test_another_process_goes_on_from_the_part(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(BODY[:700_000])
    assert fetch(f"{server.url}/weights.bin", SHA, tmp_path).read_bytes() == BODY
    assert server.asked == [("/weights.bin", "bytes=700000-")]


def test_a_part_that_is_whole_is_only_checked(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(BODY)
    assert fetch(f"{server.url}/weights.bin", SHA, tmp_path).read_bytes() == BODY


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "weights.bin.part").write_bytes(b"something old")
    assert fetch(f"{server.url}/weights.bin", SHA, tmp_path).read_bytes() == BODY


def test_a_server_that_always_hangs_up_is_left(server, tmp_path):
    server.cuts = [1000] + [0] * 50
    with pytest.raises(DownloadError, match=r"weights\.bin could not be downloaded"):
        fetch(f"{server.url}/weights.bin", SHA, tmp_path)
    assert len(server.asked) < 10
    assert (tmp_path / "weights.bin.part").stat().st_size == 1000


def test_a_wrong_hash_is_refused_with_what_to_do(server, tmp_path):
    url = f"{server.url}/weights.bin"
    with pytest.raises(DownloadError) as error:
        fetch(url, "0" * 64, tmp_path)
    assert f"its sha256 is {SHA[:16]}..., expected 0000000000000000..." in str(error.value)
    target = tmp_path / "weights.bin"
    assert f"fetch {url} (sha256 {'0' * 64}) and put it at {target}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_anew(server, tmp_path):
    (tmp_path / "weights.bin").write_bytes(BODY[:-1])
    assert fetch(f"{server.url}/weights.bin", SHA, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("path", ["/missing.pth", "/weights.bin"])
def test_no_server_or_no_such_file_is_one_sentence(server, tmp_path, path):
    if path == "/weights.bin":
        url = f"http://127.0.0.1:1{path}"
    else:
        url = f"{server.url}{path}"
    with pytest.raises(DownloadError) as error:
        fetch(url, SHA[:8], tmp_path)
    reason = "HTTP 404" if path == "/missing.pth" else "refused"
    assert reason in str(error.value)
    assert f"fetch {url} (sha256 {SHA[:8]}...) and put it at {tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_put_there_by_hand_needs_no_network(tmp_path):
    (tmp_path / "weights.bin").write_bytes(BODY)
    assert fetch("http://127.0.0.1:1/weights.bin", SHA[:8], tmp_path).read_bytes() == BODY


def test_the_first_digits_of_a_hash_and_other_algorithms_do(server, tmp_path):
    url = f"{server.url}/weights.bin"
    fetch(url, SHA[:8], tmp_path / "a")
    fetch(url, hashlib.md5(BODY).hexdigest(), tmp_path / "b", "md5")
    assert hash_in_name("https://x.org/models/resnet18-f37072fd.pth") == "f37072fd"
    assert hash_in_name("https://x.org/models/resnet18.pth") == ""


def test_without_a_published_hash_the_hash_is_said(server, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fetch(f"{server.url}/weights.bin", "", tmp_path)
    assert SHA in caplog.text


def test_a_hub_file_is_held_against_the_hash_that_the_hub_lists(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    listed = [{"path": "model.safetensors", "lfs": {"oid": SHA}}, {"path": "README.md"}]
    server.files = {
        "/api/models/timm/net/tree/main": json.dumps(listed).encode(),
        "/timm/net/resolve/main/model.safetensors": BODY,
    }
    file = hub_file("timm/net", "model.safetensors")
    assert file.read_bytes() == BODY
    asked = len(server.asked)
    assert hub_file("timm/net", "model.safetensors") == file
    assert len(server.asked) == asked
    listed[0]["lfs"]["oid"] = "0" * 64
    server.files["/api/models/timm/other/tree/main"] = json.dumps(listed).encode()
    server.files["/timm/other/resolve/main/model.safetensors"] = BODY
    with pytest.raises(DownloadError, match="its sha256 is"):
        hub_file("timm/other", "model.safetensors")


def test_a_hub_out_of_reach_says_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=r"fetch http://127.0.0.1:1/timm/net/resolve/main/"):
        hub_file("timm/net", "model.safetensors")
