"""The engine on a vLLM server, against a small server here that speaks the same protocol over a toy model."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.engines.vllm_server.engine import VllmServerLM
from bytelm.errors import (
    BytelmWarning,
    ContextOverflowError,
    InvalidArgumentError,
    ModelError,
    ServerError,
    ServerTimeoutError,
    VocabularyMismatchError,
)
from bytelm.testing import check_engine
from tests.support.drawing import draw_all
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

LONGEST = 60  # max_model_len


class Stub(ThreadingHTTPServer):
    """A server of one toy model, as `vllm serve MODEL --max-logprobs -1` answers.

    Attributes:
        model: What it serves.
        asked: The requests so far.
        most: Log-probabilities that it gives of a row; None: all.
        fault: What is wrong with it: a status, or "slow", "garbage", "names", "breaks", "short", "no fields".
        names: Its models.
        root: Where it says that they come from.
    """

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be taken; 5 of them else, and the next are reset

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most: int | None = None
        self.fault: Any = None
        self.names = ["toy"]
        self.root: str | None = "toy"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Stub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        entries = [{"id": name, "root": self.server.root, "max_model_len": LONGEST} for name in self.server.names]
        self.answer({"object": "list", "data": entries})

    def do_POST(self) -> None:
        stub = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub.asked.append(request)
        if isinstance(stub.fault, int):
            self.answer({"error": {"message": "the engine is out of order", "code": stub.fault}}, status=stub.fault)
        elif stub.fault == "slow":
            time.sleep(1.5)
            self.answer({})
        elif stub.fault == "garbage":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n<html>")
        elif stub.fault == "no fields":
            self.answer({"text": "hello"})
        elif request["logprobs"] == -1 and stub.most is not None and stub.most < 0:
            told = f"Requested sample logprobs of {stub.model.vocab_size}, which is greater than max allowed: 20"
            self.answer({"error": {"message": told, "code": 400}}, status=400)
        elif request.get("stream"):
            self.stream(request)
        else:
            prompts = request["prompt"]
            several = prompts if isinstance(prompts[0], list) else [prompts]
            self.answer({"choices": [self.choice(i, p, request) for i, p in enumerate(several)][::-1]})

    def name(self, token: int) -> str:
        return f"word{token}" if self.server.fault == "names" else f"token_id:{token}"

    def choice(self, index: int, prompt: list[int], request: dict[str, Any]) -> dict[str, Any]:
        """A completion of one token with the log-probabilities of all, the likeliest first."""
        assert (request["max_tokens"], request["logprobs"], request["temperature"]) == (1, -1, 0.0)
        row = self.server.model.next_token_logprobs([prompt])[0]
        order = np.argsort(-row)[: self.server.most]
        top = {self.name(int(i)): max(float(row[i]), -9999.0) for i in order}
        first = next(iter(top))
        logprobs = {"tokens": [first], "token_logprobs": [top[first]], "top_logprobs": [top], "text_offset": [0]}
        return {"index": index, "text": "?", "logprobs": logprobs, "finish_reason": "length"}

    def stream(self, request: dict[str, Any]) -> None:
        """A completion, two tokens a part."""
        assert request["ignore_eos"]
        ids, random = list(request["prompt"]), np.random.default_rng(request["seed"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        count = request["max_tokens"] - (self.server.fault == "short")
        for start in range(0, count, 2):
            tokens, logprobs = [], []
            for _ in range(min(2, count - start)):
                row = self.server.model.next_token_logprobs([ids])[0]
                token = int(random.choice(len(row), p=np.exp(row) / np.exp(row).sum()))
                ids.append(token)
                tokens.append(self.name(token))
                logprobs.append(float(row[token]))
                if token in request.get("stop_token_ids", ()):
                    break
            part = {"index": 0, "text": "", "logprobs": {"tokens": tokens, "token_logprobs": logprobs}}
            try:
                self.event({"choices": [part]})
            except OSError:  # the client has closed
                return
            if self.server.fault == "breaks":
                return
            if ids[-1] in request.get("stop_token_ids", ()):
                break
        with contextlib.suppress(OSError):
            self.event({"choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]})
            self.wfile.write(b"data: [DONE]\n\n")

    def event(self, data: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()

    def answer(self, data: dict[str, Any], *, status: int = 200) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def engine(stub: Stub, **options: Any) -> VllmServerLM:
    return VllmServerLM(stub.address, **{"tokenizer": default_tokenizer(), **options})


def test_contract(stub: Stub) -> None:
    """The engine keeps the contract, and its rows are those of the model behind the server."""
    lm = engine(stub, row_bytes=20_000)

    def make() -> VllmServerLM:
        lm.clear_cache()
        return lm

    report = check_engine(make, tolerance=1e-5, reference=Started(stub.model, lm.start_id))

    assert not [finding for finding in report.findings if finding.skipped]


class Started:
    """A model for which the empty sequence is a start symbol, as it is for one that is fed."""

    def __init__(self, inner: Any, start_id: int | None) -> None:
        self.inner, self.start_id = inner, start_id
        self.tokenizer, self.vocab_size, self.eot_ids = inner.tokenizer, inner.vocab_size, inner.eot_ids

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        rows: np.ndarray = self.inner.next_token_logprobs([tuple(s) or (self.start_id,) for s in sequences])
        return rows


def test_bytes_by_name(stub: Stub) -> None:
    """An address is a byte model: its rows and scores are those of the model, and the server draws completions."""
    lm = ByteLM.from_pretrained(stub.address + "/v1/", engine="vllm-server", tokenizer=default_tokenizer())
    local = ByteLM(Started(stub.model, 0))
    completions = lm.sample_batch(["the ", "return n", "the "], max_bytes=9, seed=1)

    assert lm.next_byte_logprobs("the qu") == pytest.approx(local.next_byte_logprobs("the qu"), abs=1e-5)
    for prompt, completion in zip(["the ", "return n", "the "], completions, strict=True):
        ended = completion.finish_reason == "eot"
        assert completion.logprob == pytest.approx(local.logprob(completion.bytes, prefix=prompt, eot=ended), abs=1e-4)
    streams = [request for request in stub.asked if request.get("stream")]
    plain = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1}
    assert all(request | plain == request for request in streams)
    assert len({request["seed"] for request in streams}) == len(streams) >= 3
    assert [c.bytes for c in lm.sample_batch(["the ", "return n"], max_bytes=9, seed=1)] == [
        c.bytes for c in completions[:2]
    ]
    assert completions[0].usage.tokens_fed


def test_the_server_s_own_sampler_writes(stub: Stub) -> None:
    """With level="token" a request has the filters, the ends of text and the caller's options."""
    lm = ByteLM(engine(stub))
    params: Any = {"level": "token", "temperature": 0.7, "top_k": 5, "seed": 1, "max_bytes": 9}
    params["engine_options"] = {"repetition_penalty": 1.2, "logit_bias": {"7": -1}}
    done = lm.sample_batch(["the ", "return n", "the "], **params)
    streams = [request for request in stub.asked if request.get("stream")]
    expected = {"temperature": 0.7, "top_k": 5, "top_p": 1, "min_p": 0, "stop_token_ids": [0], "ignore_eos": True}

    assert all(request | expected | params["engine_options"] == request for request in streams)
    assert {c.logprob for c in done} == {None}
    assert all(c.finish_reason == "eot" or len(c.bytes) == 9 for c in done)
    assert "".join(lm.stream("the ", **params)) == done[0].text
    for wrong, words in (({"echo": True}, "echo is set by"), ({"extra_args": b"x"}, "JSON")):
        with pytest.raises(InvalidArgumentError, match=words):
            lm.sample("the ", level="token", engine_options=wrong)


def test_one_request_has_all_prompts(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequences of a call go in one request, or in a few where the answer would be too large; then none twice."""
    lm = engine(stub)
    del stub.asked[:]
    lm.next_token_logprobs([(1,), (2, 3), (1,)])
    lm.next_token_logprobs([(1,), (2, 3)])

    assert [request["prompt"] for request in stub.asked] == [[[1], [2, 3]]]
    monkeypatch.setattr("bytelm.engines.vllm_server.engine.ANSWER_ENTRIES", 2 * lm.vocab_size)
    lm.next_token_logprobs([(5,), (6,), (7,)])
    assert [len(request["prompt"]) for request in stub.asked[1:]] == [2, 1]


@pytest.mark.parametrize("most", [20, -1])
def test_a_part_of_a_row_is_refused(stub: Stub, most: int) -> None:
    """A server with the usual limit, told by an error or by fewer entries, is refused with the flag that it needs."""
    stub.most = most

    with pytest.raises(ServerError, match=r"20.*vllm serve MODEL --max-logprobs -1"):
        engine(stub)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (500, ServerError, r"status 500: the engine is out of order"),
        (401, ServerError, r"status 401: .*api_key="),
        ("slow", ServerTimeoutError, r"within 0\.5 s.*timeout_s"),
        ("garbage", ServerError, r"text that is not JSON: b'<html>'"),
        ("no fields", ServerError, "without 'choices'"),
        ("names", ServerError, "names a token 'word"),
    ],
)
def test_what_a_server_may_do_wrong(stub: Stub, fault: Any, error: type[Exception], words: str) -> None:
    """Errors, silence and other protocols each have an error that says so, and keep what was finished."""
    lm = ByteLM(engine(stub, timeout_s=0.5))
    stub.fault = fault

    with pytest.raises(error, match=words):
        lm.next_byte_logprobs("the ")
    with pytest.raises(error, match=words) as caught:
        lm.sample("the ", max_bytes=3)
    assert caught.value.finished == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("fault", "words"), [("breaks", "broke off"), ("short", "1 tokens too early")])
def test_a_completion_that_breaks_off(stub: Stub, fault: str, words: str) -> None:
    """A stream that ends early is an error, and not a short completion."""
    lm = engine(stub)
    stub.fault = fault

    with pytest.raises(ServerError, match=words):
        draw_all(lm, [(5, 6)], [1], max_tokens=7)


def test_a_server_that_is_lost(stub: Stub) -> None:
    """A server that no longer runs is an error that says which and what to look at; what was finished is kept."""
    lm = ByteLM(engine(stub))
    stub.shutdown()
    stub.server_close()

    with pytest.raises(ServerError, match=rf"{stub.address} cannot be reached.*address is right"):
        lm.next_byte_logprobs("the ")
    with pytest.raises(ServerError, match="cannot be reached"):
        engine(stub)


def test_the_end_of_the_context(stub: Stub) -> None:
    """What the server has no room for is refused here; a completion that comes to the end says what to change."""
    lm = engine(stub)

    assert lm.context_length == LONGEST - 1
    with pytest.raises(ContextOverflowError, match="--max-model-len"):
        lm.next_token_logprobs([range(LONGEST)])
    taken: list[list[Any]] = []

    with pytest.raises(ContextOverflowError, match="--max-model-len"):
        draw_all(lm, [range(LONGEST - 3)], [1], max_tokens=9, found=taken)
    assert len(taken[0]) == 3
    taken.clear()
    with pytest.raises(ContextOverflowError, match="--max-model-len"):  # the others go on to their ends
        draw_all(lm, [range(LONGEST - 3), range(LONGEST), (5,)], [1, 2, 3], max_tokens=9, found=taken)
    assert [len(line) for line in taken] == [3, 0, 9]


@pytest.mark.parametrize("connections", [2, 64])
def test_a_server_that_says_nothing_holds_nobody_up(stub: Stub, connections: int) -> None:
    """The first completion that is late ends the call: no other is waited for, sent or taken from after that."""
    lm = engine(stub, timeout_s=0.5, connections=connections)
    stub.fault, stub.asked = "slow", []
    taken: list[list[Any]] = []
    start = time.monotonic()

    with pytest.raises(ServerTimeoutError):
        draw_all(lm, [(5,)] * 12, list(range(12)), max_tokens=3, found=taken)

    assert time.monotonic() - start < 1.4  # the server answers after 1.5 s
    time.sleep(0.2)
    assert len(stub.asked) <= connections
    assert not any(taken)


def test_which_model(stub: Stub) -> None:
    """Of several models one has to be named; the key goes with each request; the repr says where it is."""
    stub.names = ["toy", "toy-lora"]

    assert (
        repr(engine(stub, model="toy-lora", api_key="secret"))
        == f"VllmServerLM('{stub.address}', 'toy-lora', 311 columns)"
    )
    assert stub.keys == ["Bearer secret"]
    assert stub.asked[-1]["model"] == "toy-lora"
    with pytest.raises(InvalidArgumentError, match="toy, toy-lora; say which by model="):
        engine(stub)
    with pytest.raises(InvalidArgumentError, match="no model 'other', but toy"):
        engine(stub, model="other")
    stub.names = []
    with pytest.raises(ServerError, match="has no model"):
        engine(stub)


def test_which_tokenizer(stub: Stub, tmp_path: Any) -> None:
    """It is the given one, or the one where the server says that its model is from; another model's is refused."""
    default_tokenizer().save_pretrained(tmp_path / "toy")
    stub.root = str(tmp_path / "toy")

    assert engine(stub, tokenizer=None).tokenizer.get_vocab() == default_tokenizer().get_vocab()
    assert engine(stub, tokenizer=tmp_path / "toy").eot_ids == engine(stub).eot_ids == {0}
    with pytest.raises(VocabularyMismatchError, match="311 columns"):
        engine(stub, tokenizer=byte_bpe_tokenizer(vocab_size=330))
    (tmp_path / "toy" / "generation_config.json").write_text('{"eos_token_id": [0, 5, 6]}')
    with pytest.warns(BytelmWarning, match="spells '[%&]'"):
        assert engine(stub, tokenizer=tmp_path / "toy").eot_ids == {0}  # the other two are text
    (tmp_path / "toy" / "generation_config.json").write_text('{"eos_token_id": [0, 5')
    with pytest.raises(ModelError, match=r"generation_config\.json.*give eot_ids="):
        engine(stub, tokenizer=tmp_path / "toy")
    assert engine(stub, tokenizer=tmp_path / "toy", eot_ids=[0, 5]).eot_ids == {0, 5}
    stub.root = str(tmp_path / "elsewhere")
    with pytest.raises(ModelError) as caught:
        engine(stub, tokenizer=None)
    assert "give tokenizer=" in caught.value.__notes__[0]
    stub.root = None
    with pytest.raises(ModelError, match="does not say where its model is from; give tokenizer="):
        engine(stub, tokenizer=None)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"timeout_s": 0}, "timeout_s must be above 0"), ({"connections": 0}, "connections must be at least 1")],
)
def test_bad_options(options: dict[str, Any], words: str) -> None:
    """Options out of range are refused before anything is asked."""
    with pytest.raises(InvalidArgumentError, match=words):
        VllmServerLM("http://127.0.0.1:9", **options)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "file:///etc/passwd", "http://"])
def test_what_is_no_address(address: str) -> None:
    """An address without http:// is refused with what one looks like."""
    with pytest.raises(InvalidArgumentError, match="begins with http"):
        VllmServerLM(address)
