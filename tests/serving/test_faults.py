"""The server as a process: killed in the middle, on a full disk, told to stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx2
import psutil
import pytest

pytestmark = pytest.mark.slow

FULL = Path("/dev/full")


@contextlib.contextmanager
def served(*options: str, log: IO[str] | int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """The command with the demo model, killed at the end."""
    code = "from bytelm.cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "serve", "-m", "demo", *options], stderr=log, stdout=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server
        finally:
            server.kill()


def port_of(server: subprocess.Popen[str]) -> int:
    """Where it listens, from the line that says so."""
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"http://127.0.0.1:(\d+)/$", line.strip()):
            return int(found[1])
    raise AssertionError("the server ended before it listened")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1/completions"


def body(**options: Any) -> dict[str, Any]:
    return {"prompt": "The capital of Fra", "temperature": 0, **options}


def ask(port: int, **options: Any) -> httpx2.Response:
    return httpx2.post(url(port), json=body(**options), timeout=60)


def text_of(answer: httpx2.Response) -> str:
    return str(answer.json()["choices"][0]["text"])


def test_a_killed_server_breaks_its_streams_and_a_new_one_serves_at_once() -> None:
    """After kill -9 a client sees its stream break, without the word that means all is well; the port is free."""
    port = free_port()
    with served("--port", str(port)) as server:
        port_of(server)
        told: list[str] = []
        with (
            httpx2.stream("POST", url(port), json=body(max_tokens=4000, stream=True), timeout=60) as stream,
            pytest.raises(httpx2.HTTPError),
        ):
            for line in stream.iter_lines():
                told.append(line)
                server.kill()
    with served("--port", str(port)) as server:
        port_of(server)
        again = text_of(ask(port, max_tokens=3))

    assert told[0].startswith("data: ")
    assert "data: [DONE]" not in told
    assert again == "nce"


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_for_logs_costs_no_request() -> None:
    """A server whose log cannot be written answers all the same, and does not keep what it could not write."""
    port = free_port()
    with FULL.open("w") as full, served("--port", str(port), log=full) as server:
        while True:
            with contextlib.suppress(httpx2.ConnectError):
                first = text_of(ask(port, max_tokens=3))
                break
            assert server.poll() is None
            time.sleep(0.2)
        before = psutil.Process(server.pid).memory_info().rss
        with httpx2.Client(timeout=60) as client:
            statuses = {client.post(url(port), json=body(max_tokens="x")).status_code for _ in range(300)}
        after = psutil.Process(server.pid).memory_info().rss

    assert first == "nce"
    assert statuses == {400}
    assert after - before < 20 * 2**20


def test_a_stop_is_graceful_and_a_place_that_is_taken_is_said() -> None:
    """SIGTERM lets a request end and then the server; another one on the same port says what is wrong before it loads."""
    with served("--port", "0", "--json") as server:
        port = port_of(server)
        second = subprocess.run(
            [sys.executable, "-c", "from bytelm.cli.main import main; main()", "serve", "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
        with httpx2.stream("POST", url(port), json=body(max_tokens=40, stream=True), timeout=60) as stream:
            told: list[str] = []
            for line in stream.iter_lines():
                if not told:
                    os.kill(server.pid, signal.SIGTERM)
                told.append(line)
        code = server.wait(60)
        assert server.stderr is not None
        logged = [json.loads(line) for line in server.stderr.read().splitlines() if line.startswith("{")]

    assert "data: [DONE]" in told
    assert code in (0, -signal.SIGTERM)
    assert second.returncode == 1
    assert f"port {port}" in second.stderr
    assert {"path": "/v1/completions", "status": 200}.items() <= logged[-1].items()
