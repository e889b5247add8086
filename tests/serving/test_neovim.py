"""Neovim fills in at its cursor with llama.vim's own request, and what it has written is what the model writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bytelm import ByteLM
from tests.serving.test_clients import ABOVE, BELOW, ENDLESS, HERE, SEVEN, Served, served, until

SCRIPT = Path(__file__).with_name("fill_in.vim")
BEFORE = "import numpy as np\n\n\ndef mean(values):\n    return np.me"
AFTER = "\n\n\nprint(mean([1, 2, 3]))\n"
EXTRA = [{"filename": "prices.py", "time": [204, -1422156225], "text": "def with_vat(net):\n    return net * 1.19\n"}]

# What llama.vim itself (its commit a1c8e6e) sent from this buffer by Neovim 0.7.2; its dictionary's order, its spaces.
KEYSTROKE = (
    rb'{"input_suffix": "\n\n\nprint(mean([1, 2, 3]))\n", "response_fields": ["content", "timings/prompt_n", '
    rb'"timings/prompt_ms", "timings/prompt_per_token_ms", "timings/prompt_per_second", "timings/predicted_n", '
    rb'"timings/predicted_ms", "timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated", '
    rb'"tokens_cached"], "t_max_prompt_ms": 500, "input_prefix": "import numpy as np\n\n\ndef mean(values):\n", '
    rb'"t_max_predict_ms": 250, "n_indent": 4, "stop": [], "stream": false, "top_k": 40, '
    rb'"prompt": "    return np.me", "top_p": 0.9, "input_extra": [], "id_slot": 0, '
    rb'"samplers": ["top_k", "top_p", "infill"], "cache_prompt": true, "n_predict": 128, "model": ""}'
)
WARMING = (
    rb'{"input_suffix": "", "input_prefix": "", "temperature": 0.0, "input_extra": [{"filename": "prices.py", '
    rb'"time": [204, -1422156225], "text": "def with_vat(net):\n    return net * 1.19\n"}], "id_slot": 0, '
    rb'"samplers": [], "n_predict": 0, "model": "", "response_fields": [""], "t_max_predict_ms": 1, "stream": false, '
    rb'"cache_prompt": true, "prompt": "", "t_max_prompt_ms": 1}'
)
HEADERS = {"User-Agent", "Host", "Accept", "Content-Type", "Authorization", "Content-Length"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nvim() -> str:
    """The editor; where it is not installed, a skip, or a failure if somebody expects it."""
    found = shutil.which("nvim")
    if found is None:
        reason = "nvim is not installed: apt-get install neovim"
        if os.environ.get("BYTELM_EXPECT_NEOVIM"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def server(nvim: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


class Editing:
    """A file in Neovim, with the cursor where the first text ends."""

    def __init__(self, nvim: str, folder: Path) -> None:
        self.nvim = nvim
        self.file = folder / "mean.py"
        self.go = folder / "go"

    def begin(
        self, what: str, url: str, before: str = BEFORE, after: str = AFTER, extra: Any = (), most: int = 128
    ) -> subprocess.Popen[bytes]:
        """Open the file and do something at its cursor."""
        self.file.write_text(before + after, encoding="utf-8")
        rows = before.split("\n")
        given = {"url": url, "what": what, "go": str(self.go), "extra": list(extra), "most": most}
        words = [word for name, value in given.items() for word in ("--cmd", f"let g:{name} = {json.dumps(value)}")]
        cursor = f"call cursor({len(rows)}, {len(rows[-1].encode()) + 1})"
        command = [self.nvim, "--headless", "-u", "NONE", "-i", "NONE", "-n", *words, str(self.file)]
        # Past the end of a line the cursor may stand in insert mode; here because of virtualedit.
        return subprocess.Popen([*command, "-c", "set virtualedit=onemore", "-c", cursor, "-S", str(SCRIPT)])

    def do(self, what: str, url: str, **texts: Any) -> list[str]:
        """Do it to its end: the lines that the script tells."""
        process = self.begin(what, url, **texts)
        try:
            assert process.wait(180) == 0
        finally:
            process.kill()
        return Path(f"{self.file}.told").read_text(encoding="utf-8").split("\n")


@pytest.fixture
def editing(nvim: str, tmp_path: Path) -> Editing:
    return Editing(nvim, tmp_path)


class Recorder(BaseHTTPRequestHandler):
    """A server that notes what it is sent."""

    seen: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, dict(self.headers), body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"content":"an(values)"}')

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[str]:
    """The address of a server that notes what it is sent."""
    Recorder.seen.clear()
    with HTTPServer(("127.0.0.1", 0), Recorder) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/infill"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(("what", "extra", "sent"), [("fill", [], KEYSTROKE), ("warm", EXTRA, WARMING)])
def test_the_request_is_llama_vims(editing: Editing, recorder: str, what: str, extra: Any, sent: bytes) -> None:
    """Byte for byte what the plugin sent, recorded from it; the order of a dictionary is that of this Neovim."""
    version = subprocess.run([editing.nvim, "--version"], capture_output=True, text=True, check=True).stdout

    editing.do(what, recorder, extra=extra)

    ((path, headers, body),) = Recorder.seen
    assert path == "/infill"
    assert set(headers) == HEADERS
    assert (headers["Content-Type"], headers["Authorization"].strip()) == ("application/json", "Bearer")
    assert json.loads(body) == json.loads(sent)
    assert len(body) == len(sent)
    if version.startswith("NVIM v0.7.2"):
        assert body == sent


def test_the_buffer_is_what_the_model_writes(editing: Editing, server: Served, fim: ByteLM) -> None:
    """At a cursor inside a word, at a place where its filters leave one byte each time (the plugin sends no seed)."""
    expected = fim.infill(ABOVE + HERE, BELOW, top_k=40, top_p=0.9, max_bytes=len(SEVEN)).text

    raw, told = editing.do("fill", f"{server.address}/infill", before=ABOVE + HERE, after=BELOW, most=len(SEVEN))

    assert told == "curl: 0"
    assert editing.file.read_text(encoding="utf-8") == ABOVE + HERE + expected + BELOW
    assert re.match(r"^\s*\{", raw)
    assert re.search(r'"content"\s*:"', raw)


def test_the_context_alone_writes_nothing(editing: Editing, server: Served) -> None:
    """The warm-up is answered at once, with no text that could be taken for a completion."""
    raw, told = editing.do("warm", f"{server.address}/infill", extra=EXTRA)

    assert told == "curl: 0"
    assert json.loads(raw) == {}


def test_a_killed_job_is_dropped(editing: Editing, server: Served) -> None:
    """The editor stops its curl, as at the next keystroke; the server lets go of the request, and counts it."""
    cancelled = server.metric("bytelm_cancelled_total")
    process = editing.begin("stop", f"{server.address}/infill", before=ENDLESS, after="\n", most=4000)
    try:
        until(lambda: server.metric("bytelm_running") == 1)

        editing.go.touch()

        until(lambda: server.metric("bytelm_running") == 0)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert server.metric("bytelm_cancelled_total") == cancelled + 1
    assert "curl: 0" not in Path(f"{editing.file}.told").read_text(encoding="utf-8")
