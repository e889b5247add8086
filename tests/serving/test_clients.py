"""Real clients of `bytelm serve` on the packaged model: what they get is what the model gives in this process.

The clients that are no Python package are here by their requests: each is what the client sends by its source, and what
is asserted is what the client reads of the answer.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import yaml  # type: ignore[import-untyped] # it publishes no types
from prometheus_client.parser import text_string_to_metric_families

from bytelm import ByteLM

PROMPT = "def fibonacci(n):\n    ret"
BEFORE, AFTER = "import numpy as np\n\n\ndef mean(values):\n    return np.me", "\n\n\nprint(mean([1, 2, 3]))\n"
SENTINELS = f"<fim_prefix>{BEFORE}<fim_suffix>{AFTER}<fim_middle>"
ENDLESS = "0\n" * 40  # the model writes no other line, whatever is drawn
KEY = "a key of these tests"
DOCS = Path(__file__).parents[2] / "docs"
TOL = 1e-6  # in float64
ROUNDING = 1e-4  # of float32: a row depends on what was computed with it

pytestmark = pytest.mark.slow


# ---- a server


@dataclass(frozen=True)
class Answer:
    """What came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The server-sent events, those that are JSON read."""
        data = [block.removeprefix("data: ") for block in self.body.decode().split("\n\n") if block.startswith("data:")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.decode().split("\n") if line.strip()]


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def place(self) -> str:
        return urllib.parse.urlsplit(self.address).netloc

    def asked(self, path: str, body: Any = None, **headers: str) -> Answer:
        """Send JSON, or ask without a body; ``a_b`` is the header ``a-b``."""
        sent = None if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.place, timeout=120)
        try:
            method = "GET" if sent is None else "POST"
            connection.request(method, path, sent, {"Content-Type": "application/json", **named})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of all samples of a name."""
        families = text_string_to_metric_families(self.asked("/metrics").body.decode())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@contextmanager
def served(folder: Path, *words: str, model: str = "demo-fim") -> Iterator[Served]:
    """Run ``bytelm serve`` until it says where it is, and end it afterwards."""
    log = folder / "server.log"
    command = [sys.executable, "-c", "from bytelm.cli.main import main; main()", "serve", "-m", model, "--port", "0"]
    with log.open("wb") as told:
        process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL, stdout=told, stderr=told)
    try:
        said: list[str] = []

        def ready() -> bool:
            text = log.read_text(encoding="utf-8")
            assert process.poll() is None, text
            said[:] = re.findall(rf"^bytelm serves {re.escape(model)} at (http://\S+)/$", text, re.MULTILINE)
            return bool(said)

        until(ready, 300)
        yield Served(said[0], process, log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for a key, and reads no sentinels in texts."""
    with served(tmp_path_factory.mktemp("guarded"), "--api-key", KEY, "--no-sentinel-text") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as made:
        yield made


# ---- the pages

ADDRESS = "http://127.0.0.1:8080"
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("serve*.md")))


def shown(*languages: str) -> list[str]:
    """The fenced blocks of docs/serve*.md in some languages."""
    named = "|".join(languages)
    return re.findall(rf"^```(?:{named})\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_is_answered(server: Served, curl: str) -> None:
    """Each curl of the pages, and below it the fields that it names, with numbers as printed."""
    examples = re.findall(r"^```sh\n(curl .*?)\n```\n\n```json\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

    for command, answer in examples:
        _, *words = shlex.split(command.replace(ADDRESS, server.address))
        printed = subprocess.run([curl, *words], capture_output=True, check=True).stdout
        assert matches(json.loads(printed), json.loads(answer)), printed
    assert len(examples) == sum(text.startswith("curl ") for text in shown("sh"))


def matches(found: Any, expected: Any) -> bool:
    """Whether an answer is as the page shows it: all fields and items that it shows, numbers as it rounds them."""
    if isinstance(expected, dict):
        return all(key in found and matches(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(matches, found, expected))
    return found == pytest.approx(expected, abs=2e-4) if isinstance(expected, float) else bool(found == expected)


def test_the_python_of_the_page_runs(server: Served) -> None:
    """The example of the openai package, which needs a server; the others run with the docs."""
    (example,) = [text for text in shown("python") if "openai" in text]
    names: dict[str, Any] = {}

    try:
        exec(example.replace(ADDRESS, server.address), names)  # noqa: S102 - our own page
    finally:
        names["client"].close()

    assert "done" in names


def test_the_configurations_of_the_page_can_be_read() -> None:
    """Each in its language; all lead to the address at which the server is by default."""
    read = [json.loads(text) for text in shown("json")]
    read += [yaml.safe_load(text) for text in shown("yaml")]
    read += [tomllib.loads(text) for text in shown("toml")]
    compose = yaml.safe_load((DOCS / "serve" / "compose.yaml").read_text(encoding="utf-8"))

    addresses = re.findall(
        r"https?://[^\s\"',`)}]+", "".join(shown("vim", "json", "lua", "yaml", "toml", "sh", "python"))
    )
    assert len(read) >= 9
    assert {urllib.parse.urlsplit(address).netloc for address in addresses} == {"127.0.0.1:8080"}
    assert compose["services"]["bytelm"]["ports"] == ["127.0.0.1:8080:8080"]


# ---- openai


def test_a_completion_inside_a_word(client: openai.OpenAI, fim: ByteLM) -> None:
    """The model's own greedy bytes; tokens of prompt and completion are bytes."""
    expected = fim.sample(PROMPT, temperature=0, max_bytes=43)

    done = client.completions.create(model="demo-fim", prompt=PROMPT, max_tokens=43, temperature=0)

    (choice,) = done.choices
    assert choice.text == expected.text
    assert (choice.index, choice.finish_reason) == (0, "length" if expected.finish_reason == "length" else "stop")
    assert done.usage is not None
    assert done.usage.prompt_tokens == len(PROMPT)
    assert done.usage.completion_tokens == len(expected.bytes)
    assert done.usage.total_tokens == len(PROMPT) + len(expected.bytes)


def test_a_completion_with_a_suffix(client: openai.OpenAI, fim: ByteLM) -> None:
    """The middle that `infill` writes; the end of text is a stop."""
    expected = fim.infill(BEFORE, AFTER, temperature=0, max_bytes=64)

    done = client.completions.create(model="any", prompt=BEFORE, suffix=AFTER, max_tokens=64, temperature=0)

    assert expected.finish_reason == "eot"
    assert (done.choices[0].text, done.choices[0].finish_reason) == (expected.text, "stop")


def test_several_completions_by_one_seed(client: openai.OpenAI, fim: ByteLM) -> None:
    """Each choice of each prompt is that of `sample_batch` with the same seed."""
    prompts = ["The capital of Fra", PROMPT]
    expected = fim.sample_batch(prompts, n=2, seed=7, max_bytes=6, temperature=0.8, top_p=0.95)

    done = client.completions.create(
        model="demo-fim", prompt=prompts, n=2, seed=7, max_tokens=6, temperature=0.8, top_p=0.95
    )

    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in done.choices] == [each.text for pair in expected for each in pair]  # type: ignore[union-attr]


def test_filters_over_bytes(client: openai.OpenAI, fim: ByteLM) -> None:
    """top_k and min_p, which OpenAI does not have, as extra fields."""
    expected = fim.sample(PROMPT, seed=3, max_bytes=8, top_k=3, min_p=0.05)

    done = client.completions.create(
        model="demo-fim", prompt=PROMPT, seed=3, max_tokens=8, extra_body={"top_k": 3, "min_p": 0.05}
    )

    assert done.choices[0].text == expected.text


@pytest.mark.parametrize("stop", ["(", ["nothing of this", " - 1"]])
def test_a_stop_string_ends_a_completion(client: openai.OpenAI, fim: ByteLM, stop: Any) -> None:
    """Before it, and it is no part of the text."""
    expected = fim.sample(PROMPT, temperature=0, max_bytes=43, stop=stop)

    done = client.completions.create(model="demo-fim", prompt=PROMPT, max_tokens=43, temperature=0, stop=stop)

    assert expected.finish_reason == "stop"
    assert (done.choices[0].text, done.choices[0].finish_reason) == (expected.text, "stop")


def test_the_log_probabilities_of_what_is_written(client: openai.OpenAI, fim: ByteLM) -> None:
    """One for each byte, as `byte_logprobs` has it, and the likeliest beside it."""
    done = client.completions.create(model="demo-fim", prompt=PROMPT, max_tokens=8, temperature=0, logprobs=2)

    told = done.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    expected = fim.byte_logprobs(done.choices[0].text, prefix=PROMPT)
    np.testing.assert_allclose(told.token_logprobs, expected, atol=ROUNDING)
    assert told.tokens == list(done.choices[0].text)
    assert told.text_offset == list(range(8))
    for at, likeliest in enumerate(told.top_logprobs):
        row = fim.next_byte_logprobs(PROMPT + done.choices[0].text[:at])
        np.testing.assert_allclose(sorted(likeliest.values()), np.sort(row)[-2:], atol=ROUNDING)


def test_the_log_probabilities_of_a_prompt(client: openai.OpenAI, fim: ByteLM) -> None:
    """With echo, those of the prompt's bytes before those of the completion's, and the text of both."""
    expected = fim.byte_logprobs(PROMPT)

    done = client.completions.create(
        model="demo-fim", prompt=PROMPT, max_tokens=3, temperature=0, logprobs=1, echo=True
    )

    choice = done.choices[0]
    assert choice.text.startswith(PROMPT)
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert len(choice.logprobs.token_logprobs) == len(choice.text) == len(PROMPT) + 3
    np.testing.assert_allclose(choice.logprobs.token_logprobs[1 : len(PROMPT)], expected[1:], atol=ROUNDING)


def test_a_prompt_of_ids_may_end_inside_a_character(client: openai.OpenAI, fim: ByteLM) -> None:
    """Ids are bytes: the rest of the character comes first."""
    prompt = "Le caf\u00e9, le th\u00e9 et le caf".encode() + b"\xc3"
    expected = fim.sample(prompt, temperature=0, max_bytes=4)

    done = client.completions.create(model="demo-fim", prompt=list(prompt), max_tokens=4, temperature=0)

    assert done.choices[0].text == expected.text
    assert done.usage is not None
    assert done.usage.prompt_tokens == len(prompt)


def test_a_completion_as_it_comes(client: openai.OpenAI, fim: ByteLM) -> None:
    """Pieces that are together the completion, then why it ended, then what it cost."""
    expected = fim.infill(BEFORE, AFTER, seed=4, top_p=0.9, max_bytes=64)

    with client.completions.create(
        model="demo-fim",
        prompt=BEFORE,
        suffix=AFTER,
        max_tokens=64,
        seed=4,
        top_p=0.9,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)

    pieces = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert "".join(piece.text for piece in pieces) == expected.text
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(expected.bytes)


def test_several_completions_as_they_come(client: openai.OpenAI, fim: ByteLM) -> None:
    """Pieces of three at once, each by its index."""
    expected = fim.sample(PROMPT, n=3, seed=11, max_bytes=8)

    with client.completions.create(model="demo-fim", prompt=PROMPT, n=3, seed=11, max_tokens=8, stream=True) as stream:
        pieces = [choice for chunk in stream for choice in chunk.choices]

    texts = ["".join(piece.text for piece in pieces if piece.index == index) for index in range(3)]
    assert isinstance(expected, list)
    assert texts == [each.text for each in expected]


MESSAGES: list[Any] = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.mark.parametrize("limit", [{"max_tokens": 24}, {"max_completion_tokens": 24}])
def test_a_chat(client: openai.OpenAI, fim: ByteLM, limit: dict[str, Any]) -> None:
    """The model's own answer in its own template."""
    expected = fim.chat(MESSAGES, temperature=0, max_bytes=24)

    done = client.chat.completions.create(model="demo-fim", messages=MESSAGES, temperature=0, **limit)

    (choice,) = done.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.finish_reason == ("length" if expected.finish_reason == "length" else "stop")
    assert done.usage is not None
    assert done.usage.completion_tokens == len(expected.bytes)


def test_an_answer_that_was_begun_goes_on_inside_a_word(client: openai.OpenAI, fim: ByteLM) -> None:
    """A last message of the assistant is continued, from any byte, and what comes back is what is new."""
    begun = [*MESSAGES, {"role": "assistant", "content": "The capital of Fra"}]
    expected = fim.chat(begun, continue_final_message=True, temperature=0, max_bytes=12)

    done = client.chat.completions.create(model="demo-fim", messages=begun, temperature=0, max_tokens=12)

    assert done.choices[0].message.content == expected.text
    assert expected.text.startswith("nce")


def test_a_chat_as_it_comes(client: openai.OpenAI, fim: ByteLM) -> None:
    """First the role, then pieces, then why it ended."""
    expected = fim.chat(MESSAGES, seed=5, max_bytes=16)

    with client.chat.completions.create(
        model="demo-fim", messages=MESSAGES, seed=5, max_tokens=16, stream=True
    ) as stream:
        choices = [chunk.choices[0] for chunk in stream if chunk.choices]

    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == expected.text
    assert [bool(choice.finish_reason) for choice in choices] == [False] * (len(choices) - 1) + [True]


def test_the_models(client: openai.OpenAI) -> None:
    """One, by the name that the command was given."""
    found = list(client.models.list())

    assert [model.id for model in found] == ["demo-fim"]
    assert found[0].object == "model"


@pytest.mark.parametrize(
    ("given", "param", "told"),
    [
        ({"temperature": -1}, "temperature", "temperature"),
        ({"max_tokens": "many"}, "max_tokens", "integer"),
        ({"n": 1000}, "n", "1000"),
        ({"stop": [str(number) for number in range(1000)]}, "stop", "1000"),
        ({"prompt": [300]}, "prompt", "300"),
        ({"prompt": {"a": 1}}, "prompt", "prompt"),
        ({"top_p": 2}, "top_p", "top_p"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "logit_bias"),
    ],
)
def test_a_bad_request_names_its_field(client: openai.OpenAI, given: dict[str, Any], param: str, told: str) -> None:
    """As OpenAI's own error, with the field in ``param`` and in the message what was wrong."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "demo-fim", "prompt": "a", "max_tokens": 1, **given})

    assert told in caught.value.message
    assert isinstance(caught.value.body, dict)
    assert caught.value.type == "invalid_request_error"
    assert (caught.value.param or "").split(".")[0] == param


def test_what_is_not_there_is_not_found(client: openai.OpenAI) -> None:
    """An endpoint that the server does not have, in the form of OpenAI's errors."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="demo-fim", input="text")

    assert caught.value.type == "not_found_error"


def test_a_key_is_asked_for(guarded: Served) -> None:
    """Without it, or with another, an authentication error; with it, an answer; health stays public."""
    address = f"{guarded.address}/v1"
    with openai.OpenAI(base_url=address, api_key="another", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.completions.create(model="demo-fim", prompt="a", max_tokens=1)
        assert KEY not in caught.value.message
    with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0) as known:
        done = known.completions.create(model="demo-fim", prompt="a", max_tokens=1)

    assert len(done.choices) == 1
    assert guarded.asked("/health").json == {"status": "ok"}
    assert {guarded.asked(path).status for path in ("/metrics", "/slots", "/v1/models", "/bytelm/model")} == {401}


@asynccontextmanager
async def asking(server: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_stream_that_is_cancelled_is_dropped(server: Served) -> None:
    """A task of asyncio that is cancelled in the middle of a stream: the server stops, and counts it."""
    before = server.metric("bytelm_cancelled_total")
    seen: list[str] = []

    async def read() -> None:
        async with asking(server) as client:
            stream = await client.completions.create(
                model="demo-fim", prompt=ENDLESS, max_tokens=4000, temperature=0, stream=True
            )
            async for chunk in stream:
                seen.append(chunk.choices[0].text)

    async def work() -> None:
        task = asyncio.create_task(read())
        while len(seen) < 3:
            await asyncio.sleep(0.01)
            assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(work(), 120))

    until(lambda: server.metric("bytelm_running") == 0)
    assert server.metric("bytelm_waiting") == 0
    assert server.metric("bytelm_cancelled_total") == before + 1


def test_many_at_once_get_what_each_gets_alone(server: Served, fim: ByteLM) -> None:
    """Twelve requests of one client together, by their seeds."""
    expected = [fim.sample(PROMPT, seed=seed, max_bytes=6).text for seed in range(12)]

    async def work() -> list[str]:
        async with asking(server) as client:
            done = await asyncio.gather(
                *(
                    client.completions.create(model="demo-fim", prompt=PROMPT, seed=seed, max_tokens=6)
                    for seed in range(12)
                )
            )
            return [each.choices[0].text for each in done]

    assert asyncio.run(work()) == expected


# ---- lm-eval

TASK = """\
task: toy_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
"""
KINDS = {
    "choice": """\
output_type: multiple_choice
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "likely": """\
output_type: loglikelihood
doc_to_text: "{{begun}}"
doc_to_target: "{{end}}"
target_delimiter: ""
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
""",
    "rolling": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
""",
    "write": """\
output_type: generate_until
doc_to_text: "Q: {{question}}\\nA:"
doc_to_target: "{{question}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}
ROWS = [
    {"question": "Is Paris the capital of France?", "label": 1, "begun": "The capital of Fra", "end": "nce is Paris"},
    {"question": "Is a na\u00efve caf\u00e9 a fruit?", "label": 0, "begun": "Le th\u00e9 et le caf", "end": "\u00e9"},
    {"question": "Is one more than two?", "label": 0, "begun": "", "end": "Once upon a time"},
]


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a task of each kind; lm-eval knows no others, and does not ask what is installed."""
    from lm_eval.tasks import TaskManager

    real = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, **given: real(self, **given, include_defaults=False))
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for kind, text in KINDS.items():
        (tmp_path / f"{kind}.yaml").write_text(TASK.format(kind=kind, data=data) + text)
    return tmp_path


def test_lm_eval_gives_the_numbers_of_bytelm_eval(tmp_path: Path, tasks: Path) -> None:
    """With nothing but the address: it finds the tokenizer of bytes itself, and each answer agrees to 1e-6.

    Both models are in float64, where rounding is far below that. The start token in front of an empty context is
    lm-eval's own, and ``start=true`` of `bytelm eval`.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from bytelm.harness.model import HarnessLM

    manager = TaskManager(include_path=str(tasks))
    asked: dict[str, Any] = {"tasks": [f"toy_{kind}" for kind in KINDS], "task_manager": manager, "bootstrap_iters": 0}

    with served(tmp_path, "--dtype", "float64") as server:
        address = f"{server.address}/v1/completions"
        found = simple_evaluate("local-completions", model_args={"base_url": address}, batch_size=1, **asked)
    expected = simple_evaluate(HarnessLM("demo-fim", dtype="float64", start=True, bytes_per_token=1), **asked)

    for kind in KINDS:
        name = f"toy_{kind}"
        pairs = [sorted(run["samples"][name], key=lambda sample: sample["doc_id"]) for run in (expected, found)]
        for ours, theirs in zip(*pairs, strict=True):
            assert [_rounded(each) for each in theirs["resps"]] == [_rounded(each) for each in ours["resps"]]
        metrics = [
            {key: value for key, value in run["results"][name].items() if "," in key} for run in (expected, found)
        ]
        assert metrics[1] == pytest.approx(metrics[0], abs=TOL, nan_ok=True)


def _rounded(answer: Any) -> Any:
    """An answer of lm-eval, with its numbers to 1e-6."""
    if isinstance(answer, list | tuple):
        return [_rounded(each) for each in answer]
    if isinstance(answer, str | bool):
        return answer
    return pytest.approx(float(answer), abs=TOL)


# ---- llm


def llm(server: Served, folder: Path, *words: str) -> str:
    """What Simon Willison's ``llm`` prints."""
    (models,) = [text for text in shown("yaml") if "api_base" in text]
    (folder / "extra-openai-models.yaml").write_text(models.replace(ADDRESS, server.address))
    command = [sys.executable, "-c", "from llm.cli import cli; cli()", *words, "--no-log"]
    environment = {**os.environ, "LLM_USER_PATH": str(folder)}
    done = subprocess.run(command, input="", env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [(), ("--no-stream",)])
def test_llm_completes(server: Served, fim: ByteLM, tmp_path: Path, stream: tuple[str, ...]) -> None:
    """As a completion model: the prompt is gone on with, wherever it ends."""
    expected = fim.sample("The capital of Fra", temperature=0, max_bytes=12)

    printed = llm(
        server,
        tmp_path,
        "-m",
        "bytes",
        "-o",
        "temperature",
        "0",
        "-o",
        "max_tokens",
        "12",
        *stream,
        "The capital of Fra",
    )

    assert printed.rstrip("\n") == expected.text.rstrip("\n")


def test_llm_chats(server: Served, fim: ByteLM, tmp_path: Path) -> None:
    """As a chat model, with a system prompt."""
    expected = fim.chat(MESSAGES, temperature=0, max_bytes=12)

    options = ("-o", "temperature", "0", "-o", "max_tokens", "12")
    printed = llm(server, tmp_path, "-m", "bytes-chat", "-s", MESSAGES[0]["content"], *options, MESSAGES[1]["content"])

    assert printed.rstrip("\n") == expected.text.rstrip("\n")


# ---- curl


@pytest.fixture(scope="module")
def curl() -> str:
    found = shutil.which("curl")
    if found is None:
        pytest.skip("curl is not installed")
    return found


def test_curl_shows_a_stream_as_it_comes(server: Served, fim: ByteLM, curl: str) -> None:
    """Lines that can be read while the rest is being written."""
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stream": True}
    expected = fim.sample(PROMPT, temperature=0, max_bytes=12)
    times, lines = [], []

    command = [curl, "-sN", f"{server.address}/v1/completions", "-d", json.dumps(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            times.append(time.monotonic())

    data = [line.removeprefix("data: ").rstrip("\n") for line in lines if line.startswith("data: ")]
    assert all(line == "\n" or line.startswith(("data: ", ":")) for line in lines)
    assert data[-1] == "[DONE]"
    assert "".join(json.loads(each)["choices"][0]["text"] for each in data[:-1]) == expected.text
    assert times[-1] - times[0] > 0.005


def test_curl_shows_an_error(server: Served, curl: str) -> None:
    """Its status, its kind and its message, as one line of JSON."""
    command = [
        curl,
        "-s",
        "-w",
        "%{http_code} %{content_type}",
        f"{server.address}/v1/completions",
        "-d",
        '{"prompt":1}',
    ]

    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    text, _, kind = printed.rpartition("}")
    assert kind == "400 application/json"
    error = json.loads(text + "}")["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "prompt")


def test_the_bytes_of_a_head(server: Served, curl: str) -> None:
    """Health, byte for byte but for the date: nothing says what runs the server."""
    printed = subprocess.run([curl, "-si", f"{server.address}/health"], capture_output=True, check=True).stdout

    dated = re.sub(rb"\r\ndate: [^\r]+ GMT\r\n", b"\r\n", printed)
    assert dated != printed
    assert dated == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\ncontent-type: application/json\r\n\r\n" + b'{"status":"ok"}'
    )


def test_a_page_of_another_origin_is_turned_away(server: Served) -> None:
    """Before anything is asked of the model, and without a header that would let the page read the answer."""
    body = {"prompt": "a", "max_tokens": 1}

    foreign = server.asked("/v1/completions", body, Origin="http://elsewhere.example")
    own = server.asked("/v1/completions", body, Origin=server.address)

    assert (foreign.status, own.status) == (403, 200)
    assert not {"access-control-allow-origin", "server"} & {*foreign.headers, *own.headers}


# ---- the editors, by what they send and what they read


def middle(fim: ByteLM, **options: Any) -> str:
    """What the model writes at the cursor of these tests."""
    options = {"temperature": 0, "max_bytes": 128, **options}
    return str(fim.infill(BEFORE, AFTER, **options).text)


# Some clients set no temperature and no seed. Here top-p 0.9 leaves one byte each time, for the next seven.
ABOVE, HERE, BELOW = (
    "class Point:\n    def __init__(self, x, y, z):\n        self.x = x\n",
    "        sel",
    "\n        self.z = z\n",
)
SEVEN = "f.y = y"
LLAMA_VIM = {
    "id_slot": 0,
    "input_prefix": ABOVE,
    "input_suffix": BELOW,
    "input_extra": [],
    "prompt": HERE,
    "n_predict": len(SEVEN),
    "stop": [],
    "n_indent": 8,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
    "model": "",
}


@pytest.mark.parametrize("seed", range(3))
def test_the_model_leaves_no_choice_there(fim: ByteLM, seed: int) -> None:
    """Whatever is drawn, with the filters that llama.vim asks for."""
    assert fim.infill(ABOVE + HERE, BELOW, top_k=40, top_p=0.9, seed=seed, max_bytes=len(SEVEN)).text == SEVEN


def test_llama_vim(server: Served) -> None:
    """Its expression finds the text in the raw body, and the fields that it asked for are flat, as their names are."""
    answer = server.asked("/infill", LLAMA_VIM, Authorization="Bearer ")

    raw = answer.body.decode()
    assert re.match(r"^\s*\{", raw)
    assert re.search(r'"content"\s*:"', raw)
    assert set(answer.json) == set(LLAMA_VIM["response_fields"])  # type: ignore[call-overload]
    assert answer.json["content"] == SEVEN
    numbers = [value for name, value in answer.json.items() if name.startswith("timings/")]
    assert all(isinstance(value, int | float) for value in [*numbers, answer.json["tokens_cached"]])
    assert answer.json["timings/predicted_n"] == len(SEVEN)
    assert answer.json["truncated"] is False


def test_llama_vim_speculates(server: Served) -> None:
    """Behind its own suggestion, which it puts at the end of the prompt: the next line, as far as time allows."""
    body = {**LLAMA_VIM, "prompt": HERE + SEVEN, "t_max_predict_ms": 1000}

    answer = server.asked("/infill", body)

    assert answer.json["content"].startswith("\n")
    assert BELOW.startswith(answer.json["content"])


def test_llama_vim_shows_other_files(server: Served, fim: ByteLM) -> None:
    """Pieces of other files, with the time that Vim notes beside them, are the model's context."""
    before, after = "from prices import wi", "\n"
    text = "def with_vat(net):\n    return net * 1.19\n"
    expected = fim.infill(before, after, context=[("prices.py", text)], temperature=0, max_bytes=len(SEVEN))
    extra = [{"filename": "prices.py", "time": [204, -1422156225], "text": text}]
    given = {"input_prefix": "", "prompt": before, "input_suffix": after, "input_extra": extra, "n_indent": 0}

    answer = server.asked("/infill", {**LLAMA_VIM, **given, "samplers": ["temperature"], "temperature": 0})

    assert answer.json["content"] == expected.text
    assert answer.json["content"].startswith("th_vat")


def test_llama_vim_sends_the_context_before_it_is_needed(server: Served) -> None:
    """Nothing is to be written, and no field is wanted."""
    body = {
        "id_slot": 0,
        "input_prefix": "",
        "input_suffix": "",
        "input_extra": [{"filename": "mean.py", "time": [204, -1], "text": BEFORE}],
        "prompt": "",
        "n_predict": 0,
        "temperature": 0.0,
        "samplers": [],
        "stream": False,
        "cache_prompt": True,
        "t_max_prompt_ms": 1,
        "t_max_predict_ms": 1,
        "response_fields": [""],
        "model": "",
    }

    answer = server.asked("/infill", body)

    assert (answer.status, answer.json) == (200, {})


def test_llama_vscode(server: Served, fim: ByteLM) -> None:
    """Three completions are a list, one is an object; its warm-up, its health check and its count of tokens."""
    kept = {key: value for key, value in LLAMA_VIM.items() if key not in ("stop", "response_fields", "model")}
    body = {**kept, "top_p": 0.99, "t_max_predict_ms": 500, "seed": 1}
    options: Any = {"top_k": 40, "top_p": 0.99, "seed": 1, "max_bytes": len(SEVEN), "n": 3}
    drawn: Any = fim.infill(ABOVE + HERE, BELOW, **options)
    expected = [each.text for each in drawn]

    several = server.asked("/infill", {**body, "n_cmpl": 3})
    one = server.asked("/infill", {**body, "n_cmpl": 1})
    warming = server.asked("/infill", {**body, "n_predict": 0, "samplers": [], "t_max_predict_ms": 1})
    tokens = server.asked("/tokenize", {"content": "caf\u00e9"})

    assert [each["content"] for each in several.json] == expected
    assert one.json["content"] == expected[0]
    assert warming.status == 200
    assert server.asked("/health").json["status"] == "ok"
    assert tokens.json["tokens"] == list("caf\u00e9".encode())


def test_minuet(server: Served, fim: ByteLM) -> None:
    """Each line that is JSON behind its ``data:`` has a text at choices[0]; the others are passed over."""
    expected = fim.infill(BEFORE, AFTER, top_p=0.9, seed=1, max_bytes=56).text
    chosen = {"max_tokens": 56, "top_p": 0.9, "seed": 1}  # `optional` of its settings
    body = {"model": "demo-fim", "stream": True, **chosen, "prompt": BEFORE, "suffix": AFTER}

    answer = server.asked("/v1/completions", body, Accept="application/json", Authorization="Bearer TERM")

    texts = []
    for line in answer.body.decode().split("\n"):
        try:
            texts.append(json.loads(re.sub(r"^data:", "", line))["choices"][0]["text"])
        except ValueError:
            continue
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "".join(texts) == expected


def test_minuet_takes_what_came_in_time(server: Served, curl: str) -> None:
    """Its curl has a time limit, and what had come by then counts: pieces are not held back."""
    body = {"model": "demo-fim", "stream": True, "max_tokens": 4000, "prompt": ENDLESS, "suffix": "\n", "top_p": 0.9}
    command = [curl, "-s", "-L", "--max-time", "6", "-d", json.dumps(body), f"{server.address}/v1/completions"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 28
    first = done.stdout.split("\n\n")[0]
    assert json.loads(first.removeprefix("data: "))["choices"][0]["text"]
    until(lambda: server.metric("bytelm_running") == 0)


def test_tabby_openai(server: Served, fim: ByteLM) -> None:
    """Every event up to the one with a finish reason has a text, or its client panics; that one is before [DONE]."""
    body = {
        "model": "demo-fim",
        "prompt": BEFORE,
        "suffix": AFTER,
        "max_tokens": 64,
        "temperature": 0.0,
        "stream": True,
    }

    answer = server.asked("/v1/completions", {**body, "presence_penalty": 0.0})

    *chunks, end = answer.events
    assert end == "[DONE]"
    assert all(isinstance(chunk["choices"][0]["text"], str) for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == middle(fim)


def test_tabby_mistral(server: Served, fim: ByteLM) -> None:
    """The same of choices[0].delta.content, which is a string in every event."""
    body = {"prompt": BEFORE, "suffix": AFTER, "model": "codestral-latest", "max_tokens": 64, "temperature": 0.0}

    answer = server.asked(
        "/v1/fim/completions", {**body, "stream": True, "random_seed": 2**63}, Authorization="Bearer k"
    )

    *chunks, end = answer.events
    assert end == "[DONE]"
    assert all(isinstance(chunk["choices"][0]["delta"]["content"], str) for chunk in chunks)
    assert [bool(chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == middle(fim)


def test_tabby_llama_cpp(server: Served, fim: ByteLM) -> None:
    """Sentinels as text, in the template that its user wrote; each event has a content, and whether it is the last."""
    body = {"seed": 2**63, "prompt": SENTINELS, "n_predict": 64, "temperature": 0.0, "stream": True}

    answer = server.asked("/completion", {**body, "penalty_last_n": 0, "presence_penalty": 0.0})

    chunks = answer.events
    assert all(isinstance(chunk["content"], str) for chunk in chunks)
    assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk["content"] for chunk in chunks) == middle(fim)


def test_continue_mistral(server: Served, fim: ByteLM) -> None:
    """Every event but the last line has a delta at choices[0]."""
    body = {
        "model": "demo-fim",
        "prompt": BEFORE,
        "suffix": AFTER,
        "max_tokens": 64,
        "temperature": 0,
        "stop": ["\n\n"],
    }

    answer = server.asked("/v1/fim/completions", {**body, "stream": True}, x_api_key="", Authorization="Bearer ")

    written = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in answer.events[:-1])
    assert written == middle(fim, stop=["\n\n"])


def test_mistral_without_a_stream(server: Served, fim: ByteLM) -> None:
    """The middle is the content of a message."""
    answer = server.asked(
        "/v1/fim/completions", {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 64, "temperature": 0}
    )

    (choice,) = answer.json["choices"]
    assert choice["message"]["content"] == middle(fim)
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"


def test_continue_ollama(server: Served, fim: ByteLM) -> None:
    """The template of /api/show says that holes can be filled, and each line of /api/generate has a response."""
    shown = server.asked("/api/show", {"name": "demo-fim"})
    options = {"temperature": 0, "num_predict": 64, "stop": ["<unlikely>"], "num_ctx": 8096, "top_k": 40, "top_p": 1}
    body = {"model": "demo-fim", "prompt": BEFORE, "suffix": AFTER, "raw": True, "options": options}

    answer = server.asked("/api/generate", {**body, "keep_alive": 1800, "stream": True})

    assert ".Suffix" in shown.json["template"]
    for parameter in shown.json.get("parameters", "").split("\n") if shown.json.get("parameters") else []:
        assert re.match(r'^(\S+)\s+((?:".*")|\S+)$', parameter)
    lines = answer.lines
    assert all("error" not in line and isinstance(line["response"], str) for line in lines)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(line["response"] for line in lines) == middle(fim)
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["eval_count"] == len(middle(fim))


def test_ollama_without_a_stream(server: Served, fim: ByteLM) -> None:
    """One object with the whole text: of the prompt itself where it is raw, and else of a chat; the models, the version."""
    body = {"model": "demo-fim", "prompt": PROMPT, "stream": False, "options": {"seed": 3, "num_predict": 8}}

    raw = server.asked("/api/generate", {**body, "raw": True})
    said = server.asked("/api/generate", body)

    assert raw.json["response"] == fim.sample(PROMPT, seed=3, max_bytes=8, temperature=0.8).text
    chat = fim.chat([{"role": "user", "content": PROMPT}], seed=3, max_bytes=8, temperature=0.8)
    assert said.json["response"] == chat.text
    assert (raw.json["done"], raw.json["done_reason"]) == (True, "length")
    assert [model["name"] for model in server.asked("/api/tags").json["models"]] == ["demo-fim"]
    assert isinstance(server.asked("/api/version").json["version"], str)


def test_continue_llama_cpp(server: Served, fim: ByteLM) -> None:
    """Sentinels as text; the content of each event."""
    body = {"prompt": SENTINELS, "stream": True, "n_predict": 64, "stop": ["<fim_prefix>"], "temperature": 0}

    answer = server.asked("/completion", body, Authorization="Bearer undefined")

    assert "".join(chunk["content"] for chunk in answer.events if chunk.get("content")) == middle(fim)


@pytest.mark.parametrize(
    "prompt",
    [
        SENTINELS,
        f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{AFTER}<|fim_middle|>",
        f"<PRE> {BEFORE} <SUF>{AFTER} <MID>",
        f"<\uff5cfim\u2581begin\uff5c>{BEFORE}<\uff5cfim\u2581hole\uff5c>{AFTER}<\uff5cfim\u2581end\uff5c>",
        f"[SUFFIX]{AFTER}[PREFIX]{BEFORE}",
        f"<|code_prefix|>{BEFORE}<|code_suffix|>{AFTER}<|code_middle|>",
    ],
    ids=["star_coder", "qwen", "code_llama", "deepseek_coder", "codestral", "glm"],
)
def test_zed(server: Served, fim: ByteLM, prompt: str) -> None:
    """Each of its formats is read as a prefix and a suffix; it needs all of these keys, and no stream."""
    stop = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
    body = {"model": "demo-fim", "prompt": prompt, "max_tokens": 64, "temperature": 0, "stop": stop}

    answer = server.asked("/v1/completions", body)

    assert {"id", "object", "created", "model", "choices", "usage"} <= set(answer.json)
    assert isinstance(answer.json["created"], int)
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= set(answer.json["usage"])
    assert (answer.json["choices"][0]["text"], answer.json["choices"][0]["finish_reason"]) == (middle(fim), "stop")


def test_sentinels_stay_text_where_they_should(guarded: Served, server: Served, fim: ByteLM) -> None:
    """With --no-sentinel-text always, and otherwise where there is more than one format's three."""
    twice = SENTINELS + "<fim_suffix>"
    body = {"max_tokens": 6, "temperature": 0}

    kept = guarded.asked("/v1/completions", {"prompt": SENTINELS, **body}, Authorization=f"Bearer {KEY}")
    more = server.asked("/v1/completions", {"prompt": twice, **body})

    assert kept.json["choices"][0]["text"] == fim.sample([SENTINELS], temperature=0, max_bytes=6).text
    assert more.json["choices"][0]["text"] == fim.sample([twice], temperature=0, max_bytes=6).text


def test_twinny(server: Served, fim: ByteLM) -> None:
    """By llama.cpp's path with OpenAI's name of the limit, and by ollama's; a space behind CodeLlama's <SUF>."""
    prompt = f"<PRE> {BEFORE} <SUF> {AFTER} <MID>"
    stop = ["<EOT>", "<PRE>", "<SUF>", "<MID>"]

    events = server.asked(
        "/completion", {"prompt": prompt, "stream": True, "temperature": 0, "max_tokens": 64, "stop": stop}
    ).events
    options = {"temperature": 0, "num_predict": 64, "stop": stop}
    lines = server.asked(
        "/api/generate", {"model": "demo-fim", "prompt": prompt, "stream": True, "keep_alive": "5m", "options": options}
    ).lines

    assert "".join(event["content"] for event in events) == middle(fim)
    assert "".join(line["response"] for line in lines) == middle(fim)


def test_llama_cpp_fields(server: Served, fim: ByteLM) -> None:
    """/completion with the fields that were asked for, and all of them where none were."""
    body = {"prompt": PROMPT, "n_predict": 8, "temperature": 0}

    few = server.asked("/completion", {**body, "response_fields": ["content", "timings/predicted_n"]})
    all_ = server.asked("/completion", body)
    alias = server.asked("/completions", body)

    text = fim.sample(PROMPT, temperature=0, max_bytes=8).text
    assert few.json == {"content": text, "timings/predicted_n": 8}
    assert all_.json["content"] == alias.json["content"] == text
    assert (all_.json["stop"], all_.json["stop_type"], all_.json["tokens_predicted"]) == (True, "limit", 8)
    assert all_.json["tokens_evaluated"] == len(PROMPT)


def test_tokens_are_bytes(server: Served) -> None:
    """Both ways, in llama.cpp's names and in vLLM's, which lm-eval reads; the end of text is 256."""
    end = server.asked("/tokenizer_info").json["eos_token"]

    for field in ("content", "prompt"):
        assert server.asked("/tokenize", {field: "na\u00efve"}).json["tokens"] == list("na\u00efve".encode())
    assert server.asked("/tokenize", {"prompt": end}).json["tokens"] == [256]
    assert server.asked("/tokenize", {"prompt": f"a{end}"}).json["tokens"] == list(f"a{end}".encode())
    back = server.asked("/detokenize", {"tokens": list("na\u00efve".encode())}).json
    assert (back["content"], back["prompt"]) == ("na\u00efve", "na\u00efve")
