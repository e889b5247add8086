"""The server refuses in each protocol's words, drops who goes away, and lives on."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.testclient import TestClient

from bytelm import ByteLM, TableLM
from bytelm.cli.serve import log_warnings
from bytelm.errors import InvalidArgumentError, LeakWarning
from bytelm.serving.app import JsonLines, ServerSettings, create_app
from tests.serving.conftest import SENTINELS, Serve
from tests.support.tiny import byte_bpe_tokenizer

POSTS = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/fim/completions",
    "/infill",
    "/completion",
    "/tokenize",
    "/detokenize",
    "/api/generate",
    "/bytelm/next",
    "/bytelm/sample",
]


def message_of(path: str, body: Any) -> str:
    """The message of an error, where the path's protocol has it."""
    error = body["error"]
    return str(error if path.startswith("/api/") else error["message"])


# ---- refusals


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b'{"prompt": "a"', 400),
        (b"\xff\xfe", 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"NaN", 400),
        (b" " * 70_000, 413),
    ],
    ids=["cut", "no UTF-8", "half a pair", "brackets", "deep", "list", "text", "NaN", "large"],
)
def test_what_is_no_request_is_refused(serve: Serve, path: str, data: bytes, status: int) -> None:
    """A body that is no request gets an error in the protocol's own form."""
    answer = serve(max_body=2**16 if status == 413 else 2**20).post(path, content=data)

    assert answer.status_code == status
    assert message_of(path, answer.json())


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"prompt": "a", "max_tokens": "7"}, "max_tokens"),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, '"param": "temperature"'),
        ("/v1/completions", {"prompt": "a", "max_tokens": -5}, '"param": "max_tokens"'),
        ("/v1/completions", {"prompt": "a", "temperature": "1"}, "temperature"),
        ("/v1/completions", {"prompt": "a", "top_p": 1.5}, "top_p"),
        ("/v1/completions", {"prompt": "a", "n": 1000}, "n is from 1 to 16"),
        ("/v1/completions", {"prompt": "a", "n": 0}, "n is from 1 to 16"),
        ("/v1/completions", {"prompt": ["a"] * 1000}, "prompts"),
        ("/v1/completions", {"prompt": [999]}, "byte"),
        ("/v1/completions", {"prompt": [[1], [-1]]}, "byte"),
        ("/v1/completions", {"prompt": "a", "stop": ["x"] * 1000}, "stop"),
        ("/v1/completions", {"prompt": "a", "logprobs": 10**6}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"50256": -100}}, "logit_bias"),
        ("/v1/completions", {"prompt": "a" * 2**17}, "bytes"),
        ("/v1/chat/completions", {"messages": []}, "message"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ("/v1/chat/completions", {}, "messages"),
        ("/infill", {"input_prefix": "a", "input_extra": [{"text": 3}]}, "input_extra"),
        ("/infill", {"input_prefix": "a", "input_extra": [{"text": "x", "filename": "a\nb"}]}, "line"),
        ("/completion", {"prompt": "a", "grammar": "root ::= x"}, "grammar"),
        ("/completion", {"prompt": "a", "n_cmpl": 99}, "n_cmpl"),
        ("/api/generate", {"prompt": "a", "format": "xml"}, "format"),
        ("/bytelm/sample", {"prefix": {"base64": "?"}}, "base64"),
        ("/bytelm/sample", {"prefix": "a", "n": 2, "stream": True}, "stream"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 2**17}]}, "bytes"),
        ("/bytelm/likeliest", {"prefix": "a", "max_calls": 0}, "max_calls"),
        ("/bytelm/likeliest", {"prefix": "a" * 2**17}, "bytes"),
        ("/bytelm/next", {"prefix": "a" * 2**17}, "bytes"),
        ("/bytelm/next", {"prefix": "a", "top": -7}, "top"),
        ("/bytelm/cover", {"prefix": "a" * 2**17}, "bytes"),
        ("/bytelm/logprobs", {"text": "a", "prefix": "a" * 2**17}, "bytes"),
        ("/bytelm/likeliest", {"prefix": "a", "stop": [""]}, "stop"),
    ],
)
def test_a_value_that_cannot_be_is_named(serve: Serve, path: str, body: dict[str, Any], said: str) -> None:
    """The error names the field or the limit, with status 400."""
    answer = serve(max_prompt=2**16).post(path, json=body)

    assert answer.status_code == 400
    assert said in json.dumps(answer.json())


def test_null_is_not_given_and_strangers_are_left_alone(client: TestClient, lm: ByteLM) -> None:
    """Null fields, fields of others, whole numbers as floats, and values that switch off change nothing."""
    body = {
        "prompt": "the qui",
        "max_tokens": 5.0,
        "seed": 3,
        "stop": None,
        "suffix": None,
        "top_k": 0,
        "top_p": 1,
        "min_p": 0.0,
        "user": "me",
        "presence_penalty": 0,
        "logit_bias": {},
        "stream": None,
    }

    answer = client.post("/v1/completions", json=body)

    assert answer.json()["choices"][0]["text"] == lm.sample("the qui", max_bytes=5, seed=3).text


def test_more_bytes_than_the_server_writes_are_as_many_as_it_writes(serve: Serve) -> None:
    """A client that asks for too much gets what there is, and is told that its length ended it."""
    client = serve(max_bytes=3, default_bytes=3)

    for wanted in (100, -1, None):
        told = client.post("/completion", json={"prompt": "a", "n_predict": wanted, "temperature": 0}).json()

        assert told["tokens_predicted"] <= 3


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    """What is not there is told in the form of the protocol whose path it is like."""
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert client.get("/nothing").json()["error"]["code"] == 404
    assert isinstance(client.get("/api/nothing").json()["error"], str)
    assert client.get("/v1/completions").status_code == 405


def test_keys_are_asked_for(serve: Serve) -> None:
    """With keys each request needs one; health and the page do not."""
    client = serve(api_keys=("first", "sécond"))

    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first"}, {"X-Api-Key": ""}):
        answer = client.post("/v1/completions", json={"prompt": "a"}, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
    for headers in ({"Authorization": "Bearer first"}, {"X-Api-Key": "first"}):
        assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=headers).status_code == 200
    second = [(b"Authorization", "Bearer sécond".encode())]
    assert client.get("/metrics", headers=second).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/health").status_code == 200
    assert client.get("/").status_code == 200
    with pytest.raises(InvalidArgumentError, match="empty"):
        ServerSettings(api_keys=("",))


def test_pages_of_other_origins_are_turned_away(serve: Serve) -> None:
    """A web page of another origin may neither ask nor read, unless it is named."""
    body = {"prompt": "a", "max_tokens": 1}
    foreign, own = {"Origin": "https://evil.example"}, {"Origin": "http://testserver"}

    closed, opened = serve(), serve(cors_origins=("https://evil.example",))

    assert closed.post("/v1/completions", json=body, headers=foreign).status_code == 403
    assert closed.post("/v1/completions", json=body, headers=own).status_code == 200
    answer = opened.post("/v1/completions", json=body, headers=foreign)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://evil.example"
    assert "access-control-allow-origin" not in closed.post("/v1/completions", json=body, headers=own).headers


def test_a_name_that_was_made_to_mean_this_machine_does_not_help(serve: Serve) -> None:
    """Where the server listens on this machine alone, a page must come from it by name too."""
    body, rebound = {"prompt": "a", "max_tokens": 1}, {"Origin": "http://evil.example", "Host": "evil.example"}
    local = {"Origin": "http://127.0.0.1:8080", "Host": "127.0.0.1:8080"}

    client = serve(loopback=True)

    assert client.post("/v1/completions", json=body, headers=rebound).status_code == 403
    assert client.post("/v1/completions", json=body, headers=local).status_code == 200
    assert serve().post("/v1/completions", json=body, headers=rebound).status_code == 200  # a public name


def test_a_server_that_stops_says_503(lm: ByteLM) -> None:
    """What comes to a server whose session is closed is told so."""
    app = create_app(lm)
    with TestClient(app):
        pass

    answer = TestClient(app, raise_server_exceptions=False).post("/v1/completions", json={"prompt": "a"})

    assert answer.status_code == 503


def test_nothing_of_a_prompt_is_logged_unless_asked(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The log has paths and times; with log_prompts it has the texts too."""
    caplog.set_level(logging.INFO, "bytelm.serve")

    serve().post("/v1/completions", json={"prompt": "my secret", "max_tokens": 1})
    quiet = caplog.text
    serve(log_prompts=True).post("/v1/completions", json={"prompt": "my secret", "max_tokens": 1})

    assert "/v1/completions 200" in quiet
    assert "secret" not in quiet
    assert "my secret" in caplog.text
    record = next(each for each in caplog.records if hasattr(each, "told"))
    assert json.loads(JsonLines().format(record))["path"] == "/v1/completions"


@pytest.mark.parametrize("texts", [False, True])
def test_a_warning_is_logged_by_its_kind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, texts: bool
) -> None:
    """A warning may quote a prompt: the log has its kind, and its text if prompts are logged."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    log_warnings(texts=texts)

    warnings.showwarning(LeakWarning("after b'my secret' 57% is lost"), LeakWarning, "file.py", 1)

    assert "LeakWarning" in caplog.text
    assert ("my secret" in caplog.text) == texts


def test_no_warning_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that warns for years keeps none of the texts that it warned of."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    registry: dict[Any, Any] = {}

    with warnings.catch_warnings():
        log_warnings(texts=False)
        for number in range(3):
            warnings.warn_explicit(LeakWarning(f"after {number}"), LeakWarning, "file.py", 1, registry=registry)

    assert [key for key in registry if key != "version"] == []


# ---- models that fail


class Failing(TableLM):
    """A model that raises, or says what cannot be, behind an X; and that can be slow."""

    def __init__(self, **options: Any) -> None:
        super().__init__(byte_bpe_tokenizer(eos="<|endoftext|>", special=SENTINELS), seed=3, **options)
        self.how = ""
        self.seconds = 0.0
        self.calls = 0
        (self.bad,) = self.tokenizer.encode("X", add_special_tokens=False)

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        self.calls += 1
        time.sleep(self.seconds)
        rows = super().next_token_logprobs(sequences)
        for sequence, row in zip(sequences, rows, strict=True):
            if self.bad in sequence and self.how == "raise":
                raise RuntimeError("secret of the engine")
            if self.bad in sequence and self.how == "nan":
                row[:] = np.nan
        return rows


@pytest.mark.parametrize("how", ["raise", "nan"])
@pytest.mark.parametrize("path", ["/v1/completions", "/completion", "/api/generate"])
def test_a_model_that_fails_is_a_500_with_its_cause_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture, how: str, path: str
) -> None:
    """The request gets an error of the protocol's form, the log the cause, and the next request its answer."""
    engine = Failing()
    engine.how = how
    client = serve(ByteLM(engine))
    body = {"prompt": "aX", "stream": False, "options": {"num_predict": 2}, "n_predict": 2, "max_tokens": 2}

    failed = client.post(path, json=body)
    fine = client.post(path, json={**body, "prompt": "a"})

    assert failed.status_code == 500
    assert "secret" not in failed.text
    assert "Traceback" in caplog.text or "NaN" in caplog.text
    assert fine.status_code == 200


def test_an_error_in_a_stream_is_its_last_event(serve: Serve) -> None:
    """A stream that fails in the middle says so, and ends without the word that means all is well."""
    engine = Failing()
    engine.how = "raise"
    lm = ByteLM(engine)
    engine.how = ""
    seed = next(s for s in range(400) if b"X" in lm.sample("ab", seed=s, max_bytes=40).bytes[2:30])
    lm.clear_cache()
    engine.how = "raise"
    client = serve(lm)

    told = client.post("/v1/completions", json={"prompt": "ab", "seed": seed, "max_tokens": 40, "stream": True})

    last = json.loads(told.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert told.status_code == 200
    assert last["error"]["type"] == "server_error"
    assert "[DONE]" not in told.text


def test_the_time_limit_gives_what_is_there(serve: Serve) -> None:
    """A completion that takes too long ends with the text so far, as one that its length ended."""
    engine = Failing(temperature=1.5)
    engine.seconds = 0.03
    client = serve(ByteLM(engine), seconds=0.4)

    told = client.post("/v1/completions", json={"prompt": "ab", "seed": 1, "max_tokens": 4000}).json()

    assert told["choices"][0]["finish_reason"] == "length"
    assert 0 < told["usage"]["completion_tokens"] < 400


def test_the_limit_of_an_editor_waits_for_a_line(serve: Serve) -> None:
    """t_max_predict_ms lets the first line be written to its end."""
    engine = Failing(temperature=1.5)
    lm = ByteLM(engine)
    seed = next(s for s in range(999) if "\n" in lm.sample("ab", seed=s, max_bytes=60).text[5:40])
    engine.seconds = 0.01
    client = serve(lm)

    told = client.post(
        "/completion",
        json={"prompt": "ab", "seed": seed, "temperature": 1, "n_predict": 4000, "t_max_predict_ms": 1},
    ).json()

    assert told["has_new_line"]
    assert told["tokens_predicted"] < 400


# ---- through a socket


@contextlib.contextmanager
def listening(lm: ByteLM, **settings: Any) -> Iterator[tuple[str, int]]:
    """A server with a socket, in a thread."""
    config = uvicorn.Config(create_app(lm, ServerSettings(**settings)), port=0, log_level="error")
    server = uvicorn.Server(config)
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield sock.getsockname()
    finally:
        server.should_exit = True
        thread.join(30)


Connect = Callable[[tuple[str, int]], socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens sockets, which are closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def opened(place: tuple[str, int]) -> socket.socket:
            made = stack.enter_context(socket.create_connection(place))
            made.settimeout(30)
            return made

        yield opened


def request_of(path: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def metric(place: tuple[str, int], name: str) -> float:
    with socket.create_connection(place) as asking:
        asking.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        told = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
    return float(next(line.split()[1] for line in told.splitlines() if line.startswith(f"{name} ")))


def until(condition: Any, seconds: float = 20) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_is_dropped_within_a_step(connect: Connect, stream: bool) -> None:
    """A client that closes its socket frees its place: the model is asked at most once or twice more."""
    engine = Failing(temperature=1.5)
    engine.seconds = 0.02
    with listening(ByteLM(engine)) as place:
        asking = connect(place)
        asking.sendall(request_of("/completion", {"prompt": "a", "n_predict": 4000, "stream": stream, "seed": 1}))
        until(lambda: engine.calls > 5)
        asking.close()
        after = engine.calls
        until(lambda: metric(place, "bytelm_running") == 0)
        calls = engine.calls - after

        assert calls <= 6  # of 20 ms each: what the close took to come through, and a step
        assert metric(place, "bytelm_cancelled_total") == 1


def test_half_a_body_is_given_up(connect: Connect, lm: ByteLM) -> None:
    """A client that does not send its request to the end is told so, or is gone; the server lives."""
    with listening(lm, body_seconds=0.3) as place:
        slow = connect(place)
        slow.sendall(request_of("/completion", {"prompt": "a" * 100})[:-50])
        told = slow.recv(65536)
        gone = connect(place)
        gone.sendall(request_of("/completion", {"prompt": "a" * 100})[:-50])
        gone.close()

        assert b" 408 " in told.splitlines()[0]
        assert metric(place, "bytelm_running") == 0


def test_a_megabyte_of_header_is_refused(connect: Connect, lm: ByteLM) -> None:
    """A header that is too long ends its connection, and no other."""
    with listening(lm) as place:
        asking = connect(place)
        with contextlib.suppress(OSError):
            asking.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 2**20 + b"\r\n\r\n")
        with contextlib.suppress(OSError):
            assert b"200" not in asking.recv(65536).splitlines()[:1]

        assert metric(place, "bytelm_running") == 0


def test_a_full_queue_is_told_to_come_back(connect: Connect) -> None:
    """Beyond the queue a request is answered 429 with Retry-After, and those in it are served."""
    engine = Failing(temperature=1.5)
    engine.seconds = 0.02
    with listening(ByteLM(engine), max_running=1, max_waiting=1) as place:
        body = request_of("/v1/completions", {"prompt": "a", "max_tokens": 60, "seed": 1})
        first = connect(place)
        first.sendall(body)
        until(lambda: metric(place, "bytelm_running") == 1)
        second = connect(place)
        second.sendall(body)
        until(lambda: metric(place, "bytelm_waiting") == 1)
        third = connect(place)
        third.sendall(body)
        refused = third.recv(65536).decode()

        assert refused.startswith("HTTP/1.1 429")
        assert "retry-after: 1" in refused.lower()
        for asking in (first, second):
            assert asking.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_slow_reader_holds_nobody_up(connect: Connect, lm: ByteLM) -> None:
    """While one client does not read its stream, others are answered."""
    with listening(lm) as place:
        lazy = connect(place)
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        lazy.sendall(request_of("/completion", {"prompt": "a", "n_predict": 4096, "stream": True}))
        quick = connect(place)
        quick.sendall(request_of("/completion", {"prompt": "a", "n_predict": 5}))

        assert quick.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_stop_lets_what_runs_end(connect: Connect, lm: ByteLM) -> None:
    """A server that is told to stop serves what runs to its end."""
    engine = Failing(temperature=1.5)
    engine.seconds = 0.01
    slow = ByteLM(engine)
    with listening(slow) as place:
        asking = connect(place)
        asking.sendall(request_of("/v1/completions", {"prompt": "a", "max_tokens": 40, "seed": 2}))
        until(lambda: engine.calls > 2)
    answer = b"".join(iter(lambda: asking.recv(65536), b""))

    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    engine.seconds = 0.0
    assert body["choices"][0]["text"] == slow.sample("a", max_bytes=40, seed=2).text


# ---- drafts


def test_a_server_drafts(serve: Serve, lm: ByteLM) -> None:
    """In each kind of prompt. The greedy text is the same; what was drafted is told, and counted."""
    prompt, suffix = "def double(some_number):\n    return 2 * some_nu", "\nprint(double(some_number))\n"
    plain, drafting = serve(), serve(draft=ByteLM(lm.token_lm))
    asked: dict[str, Any] = {"prompt": prompt, "temperature": 0, "max_bytes": 24}

    for more in ({}, {"suffix": suffix}):
        (own,), (drafted,) = (
            each.post("/bytelm/sample", json={**asked, **more}).json()["completions"] for each in (plain, drafting)
        )
        assert drafted["text"] == own["text"]
        assert drafted["usage"]["drafted"] >= drafted["usage"]["accepted"] > 0
        assert "drafted" not in own["usage"]
    timings = drafting.post("/completion", json={"prompt": prompt, "n_predict": 24, "temperature": 0}).json()["timings"]
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 0
    found = {
        line.split()[0]: float(line.split()[1])
        for line in drafting.get("/metrics").text.splitlines()
        if line.startswith("bytelm_") and "{" not in line
    }
    assert found["bytelm_drafted_bytes_total"] >= found["bytelm_accepted_bytes_total"] > 0
    assert found["bytelm_draft_errors_total"] == 0


def test_whole_texts_are_drawn_without_drafts(serve: Serve) -> None:
    """Particles, and the exact law of a constrained text."""
    for law in ({"particles": 2}, {"conditioning": "exact"}):
        answer = serve(draft="lookup").post("/bytelm/sample", json={"prompt": "the ", "regex": "[a-f]{2}", **law})

        assert answer.status_code == 200
        assert "drafted" not in answer.json()["completions"][0]["usage"]


@pytest.mark.usefixtures("caller_errs")
def test_a_drafter_has_to_be_one() -> None:
    with pytest.raises(InvalidArgumentError, match="draft must be"):
        ServerSettings(draft="look")  # type: ignore[arg-type]
