"""Downloads from a hub of our own on this machine: resumed, refused in time, gated, and no token left behind."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from support.checkpoints import LLADA, write_checkpoint
from support.program import start

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_averysecretone"


class Hub:
    """As much of the hub as a download asks for. break_at: bytes of the weights after which the line goes dead."""

    def __init__(self, folder: Path) -> None:
        self.files = {p.name: p.read_bytes() for p in folder.iterdir()}
        self.break_at: list[int] = []
        self.is_gated = False
        self.claimed: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path, first = request.path.partition("?")[0], request.headers.get("Range")
        self.requests.append((request.command, path, first, request.headers.get("Authorization")))
        body, status, headers = b"", 200, {}
        if self.is_gated:
            status, headers = 403, {"X-Error-Code": "GatedRepo"}
        elif path.startswith("/api/models/org/tiny/revision"):
            siblings = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith("/api/models/org/tiny/tree"):
            entries = [{"type": "file", "path": n, "size": self.size(n), "oid": self.tag(n)} for n in self.files]
            body = json.dumps(entries).encode()
        elif (name := path.rpartition("/")[2]) in self.files and "/resolve/" in path:
            body = self.files[name]
            headers = {"ETag": f'"{self.tag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if first is not None:
                start = int(first.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                body, status = body[start:], 206
            if request.command == "HEAD":
                headers["Content-Length"] = str(self.size(name))
        else:
            status = 404
        request.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            if self.break_at and path.endswith(".safetensors"):
                body = body[: self.break_at.pop()]
            request.wfile.write(body)
            request.close_connection = True

    def size(self, name: str) -> int:
        return self.claimed.get(name, len(self.files[name]))

    def tag(self, name: str) -> str:
        return f"{abs(hash(name)):040x}"[:40]


@pytest.fixture
def hub(tmp_path):
    folder = write_checkpoint(tmp_path / "published", LLADA, seed=3)
    (folder / "tokenizer.json").write_text("{}")
    made = Hub(folder)
    yield made
    made.server.shutdown()


@pytest.fixture
def download(hub, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(
        "name: s\nmodels: {m: {family: llada, source: org/tiny}}\n"
        "grid: {lengths: {prompt_tokens: 8, new_tokens: 8}, batch_size: [1], precision: float32, attention: auto,"
        " samplers: {masked_diffusion: {steps: [4]}}}\nprompts: {source: tiny, count: 2}\n"
    )

    def run(*options: str, online: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        endpoint = f"http://127.0.0.1:{hub.server.server_address[1] if online else 1}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), **variables}
        return start("download", "--config", config, *options, timeout=200, env=environment)

    return run


def weights(hub: Hub, command: str) -> list[str | None]:
    """The ranges asked of the weights, None for the whole file."""
    return [first for c, path, first, _ in hub.requests if c == command and path.endswith(".safetensors")]


def test_sizes_first_then_a_dead_line_is_tried_again_and_whole_files_are_kept(hub, download, tmp_path):
    size = len(hub.files["model.safetensors"])
    hub.break_at = [0] * 50
    broken = download()
    assert broken.returncode == 2
    assert f"org/tiny: {len(hub.files)} files to fetch" in broken.stderr
    assert "complete files are kept" in broken.stderr
    assert download("--local-files-only").returncode == 2, "an incomplete model is not ready"

    hub.break_at = [size // 3]
    hub.requests.clear()
    whole = download()
    assert whole.returncode == 0, whole.stderr
    assert "org/tiny: 1 files to fetch" in whole.stderr
    fetched = {path.rpartition("/")[2] for command, path, *_ in hub.requests if command == "GET" and "resolve" in path}
    assert fetched == {"model.safetensors"}
    assert len(weights(hub, "GET")) == 2, "a line that went dead is tried again by itself"

    hub.requests.clear()
    again = download()
    assert again.returncode == 0
    assert weights(hub, "GET") == [], "what is there is not fetched again"
    assert "to fetch" not in again.stderr
    # A run asks nothing of a hub that it could reach: what is there is used as it is.
    hub.requests.clear()
    code = (
        "from dlmbench.models.loading import resolve_model; from dlmbench.types import ModelSpec;"
        "print(resolve_model(ModelSpec('m', 'llada', 'org/tiny', 'target')))"
    )
    endpoint = f"http://127.0.0.1:{hub.server.server_address[1]}"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf")}
    resolved = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert resolved.stdout.strip().endswith(COMMIT), resolved.stderr
    assert hub.requests == []
    offline = download("--local-files-only", online=False)
    assert offline.returncode == 0, offline.stderr
    (found,) = (tmp_path / "hf").rglob("model.safetensors")
    found.resolve().write_bytes(hub.files["model.safetensors"][:-9])
    damaged = download("--local-files-only", online=False)
    assert damaged.returncode == 2
    assert f"model.safetensors has {size - 9} bytes of {size}" in damaged.stderr


def test_what_does_not_fit_is_refused_before_the_first_byte(hub, download):
    hub.claimed["model.safetensors"] = 10**18
    refused = download()
    assert refused.returncode == 2
    assert "the download needs 1000000000.00 GB" in refused.stderr
    assert "GB free" in refused.stderr
    assert "--model-cache-dir" in refused.stderr
    assert weights(hub, "GET") == []


def test_a_token_is_sent_and_never_shown_or_kept(hub, download, tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for options, variables in ((("--hf-token", str(file)), {}), ((), {"HF_TOKEN": TOKEN})):
        done = download(*options, **variables)
        assert done.returncode == 0, done.stderr
        assert f"Bearer {TOKEN}" in {sent for *_, sent in hub.requests}
        assert TOKEN not in done.stdout + done.stderr
        hub.requests.clear()
    kept = [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert kept == []

    hub.is_gated = True
    gated = download("--extra-model-id", "org/other", "--hf-token", TOKEN)
    assert gated.returncode == 2
    assert "is gated and this account has no access. Accept its conditions at https://huggingface" in gated.stderr
    assert TOKEN not in gated.stdout + gated.stderr
