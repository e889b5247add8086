"""Each protocol gives what the library gives, in the words of its clients."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from bytelm import ByteLM, Ensemble, SamplingParams
from tests.serving.conftest import Serve

PROMPT = "the qui"
PREFIX, SUFFIX = "def f(x):\n    ret", "\n\nprint(f(1))\n"


def events(text: str) -> list[Any]:
    """The JSON of server-sent events; the last one of OpenAI's is a word."""
    return [
        each if each == "[DONE]" else json.loads(each)
        for each in (block.removeprefix("data: ") for block in text.strip().split("\n\n"))
    ]


# ---- OpenAI


def test_a_completion_is_the_librarys(client: TestClient, lm: ByteLM) -> None:
    """With a seed and filters, n completions are those of sample with n."""
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 7}

    answer = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 9, "n": 3, "stop": ["e"], **options})

    expected: Any = lm.sample(PROMPT, n=3, max_bytes=9, stop="e", temperature=0.8, top_p=0.9, seed=7)
    choices = answer.json()["choices"]
    assert [each["text"] for each in choices] == [each.text for each in expected]
    assert [each["index"] for each in choices] == [0, 1, 2]
    assert [each["finish_reason"] for each in choices] == [
        "length" if each.finish_reason == "length" else "stop" for each in expected
    ]
    written = sum(len(each.bytes) for each in expected)
    assert answer.json()["usage"] == {
        "prompt_tokens": len(PROMPT),
        "completion_tokens": written,
        "total_tokens": len(PROMPT) + written,
    }


def test_several_prompts_are_a_batch(client: TestClient, lm: ByteLM) -> None:
    """A list of prompts gives what sample_batch gives, in its order."""
    prompts = [PROMPT, "x = 12", "é"]

    answer = client.post("/v1/completions", json={"prompt": prompts, "n": 2, "max_tokens": 6, "seed": 1})

    expected: Any = lm.sample_batch(prompts, n=2, max_bytes=6, seed=1)
    texts = [each["text"] for each in answer.json()["choices"]]
    assert texts == [done.text for several in expected for done in several]


def test_a_prompt_of_bytes_is_its_text(client: TestClient) -> None:
    """Byte values make the same prompt as the text, even one that ends inside a character."""
    whole = "caf\u00e9".encode()

    asked = [client.post("/v1/completions", json={"prompt": p, "seed": 2, "max_tokens": 5}) for p in ("café", [*whole])]
    cut = client.post("/v1/completions", json={"prompt": [*whole[:-1]], "temperature": 0, "max_tokens": 4})

    assert asked[0].json()["choices"] == asked[1].json()["choices"]
    assert cut.status_code == 200


def test_a_stream_holds_the_same_text_and_ends_with_its_reason(client: TestClient) -> None:
    """The chunks of each choice join to its completion; its reason stands before the last line."""
    body = {"prompt": PROMPT, "max_tokens": 9, "n": 2, "seed": 4}

    whole = client.post("/v1/completions", json=body).json()["choices"]
    told = client.post("/v1/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}})

    *chunks, usage, done = events(told.text)
    assert told.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 18
    for index, choice in enumerate(whole):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(each["text"] for each in mine) == choice["text"]
        assert [each["finish_reason"] for each in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        assert all(isinstance(each["text"], str) for each in mine)


def test_echo_and_logprobs_are_byte_scores(client: TestClient, lm: ByteLM) -> None:
    """Each byte of prompt and completion has its own log-probability, and the greedy ones are the greatest."""
    body = {"prompt": "aé", "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2}

    choice = client.post("/v1/completions", json=body).json()["choices"][0]

    done = lm.sample("aé", max_bytes=4, temperature=0)
    text = "aé".encode() + done.bytes
    lists = choice["logprobs"]
    assert choice["text"] == "aé" + done.text
    ended = done.finish_reason == "eot"
    assert lists["token_logprobs"][: len(text)] == pytest.approx(lm.byte_logprobs(text).tolist(), abs=1e-9)
    assert len(lists["tokens"]) == len(text) + ended
    assert lists["tokens"][:3] == ["a", r"bytes:\xc3", r"bytes:\xa9"]
    assert lists["text_offset"][:3] == [0, 1, 2]
    for place in range(3, len(lists["tokens"])):
        assert lists["token_logprobs"][place] == max(lists["top_logprobs"][place].values())


def test_an_end_of_text_is_a_token_of_the_logprobs(client: TestClient, lm: ByteLM) -> None:
    """A completion that the end of text ended has one more token: clients that leave out the last lose no byte."""
    seed = next(s for s in range(200) if lm.sample(PROMPT, seed=s, max_bytes=20).finish_reason == "eot")
    body = {"prompt": PROMPT, "max_tokens": 20, "seed": seed, "logprobs": 1}

    choice = client.post("/v1/completions", json=body).json()["choices"][0]

    done = lm.sample(PROMPT, seed=seed, max_bytes=20)
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["tokens"]) == len(done.bytes) + 1
    assert sum(choice["logprobs"]["token_logprobs"]) == pytest.approx(done.logprob, abs=1e-9)


def test_the_start_token_stands_in_front(client: TestClient, lm: ByteLM) -> None:
    """256 at the beginning of a list is the model's start token, as start_prefix puts it."""
    body = {"prompt": [256, *b"the"], "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}

    lists = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]

    expected = lm.byte_logprobs(b"the", prefix=lm.start_prefix()).tolist()
    assert lists["token_logprobs"][0] is None
    assert lists["token_logprobs"][1:4] == pytest.approx(expected, abs=1e-9)


def test_a_suffix_makes_an_infill(client: TestClient, lm: ByteLM) -> None:
    """OpenAI's suffix, Mistral's, llama.cpp's and ollama's give the middle that infill gives."""
    options = {"temperature": 0, "max_tokens": 8}
    asked = {
        "/v1/completions": {"prompt": PREFIX, "suffix": SUFFIX, **options},
        "/v1/fim/completions": {"prompt": PREFIX, "suffix": SUFFIX, **options},
        "/infill": {"input_prefix": PREFIX[:10], "prompt": PREFIX[10:], "input_suffix": SUFFIX, **options},
        "/api/generate": {
            "prompt": PREFIX,
            "suffix": SUFFIX,
            "stream": False,
            "options": {"temperature": 0, "num_predict": 8},
        },
        "/bytelm/sample": {"prefix": PREFIX, "suffix": SUFFIX, "temperature": 0, "max_bytes": 8},
    }

    found = {path: client.post(path, json=body).json() for path, body in asked.items()}

    expected = lm.infill(PREFIX, SUFFIX, temperature=0, max_bytes=8).text
    assert found["/v1/completions"]["choices"][0]["text"] == expected
    assert found["/v1/fim/completions"]["choices"][0]["message"]["content"] == expected
    assert found["/infill"]["content"] == expected
    assert found["/api/generate"]["response"] == expected
    assert found["/bytelm/sample"]["completions"][0]["text"] == expected


def test_mistrals_stream_is_what_its_clients_read(client: TestClient) -> None:
    """Every chunk has one choice with a content that is text, and the last one the reason and the usage."""
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6, "temperature": 0, "stream": True}

    *chunks, done = events(client.post("/v1/fim/completions", json=body).text)

    assert done == "[DONE]"
    assert all(isinstance(each["choices"][0]["delta"]["content"], str) for each in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["usage"]["prompt_tokens"] == len(PREFIX + SUFFIX)


@pytest.mark.parametrize(
    "prompt",
    [
        f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>",
        f"<fim_prefix><fim_suffix>{SUFFIX}<fim_middle>{PREFIX}",
        f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
        f"<PRE> {PREFIX} <SUF>{SUFFIX} <MID>",
        f"[SUFFIX]{SUFFIX}[PREFIX]{PREFIX}",
    ],
)
def test_sentinels_as_text_are_read_as_a_hole(client: TestClient, serve: Serve, lm: ByteLM, prompt: str) -> None:
    """A whole prompt in a known format is the infill that it means, whichever format the model has; or text, if asked."""
    body = {"prompt": prompt, "temperature": 0, "n_predict": 8}

    meant = client.post("/completion", json=body).json()["content"]
    by_openai = client.post("/v1/completions", json={**body, "max_tokens": 8}).json()["choices"][0]["text"]
    plain = serve(sentinel_text=False).post("/completion", json=body).json()["content"]

    assert meant == by_openai == lm.infill(PREFIX, SUFFIX, temperature=0, max_bytes=8).text
    assert plain == lm.sample([prompt], temperature=0, max_bytes=8).text


@pytest.mark.parametrize(
    "prompt",
    [
        f"x<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>",
        f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_suffix><fim_middle>",
        f"<fim_prefix>{PREFIX}<fim_middle>{SUFFIX}<fim_suffix>",
        f"<fim_prefix>{PREFIX}<|fim_suffix|>{SUFFIX}<fim_middle>",
        "<fim_prefix>",
    ],
)
def test_other_sentinels_stay_text(client: TestClient, lm: ByteLM, prompt: str) -> None:
    """A prompt that is not wholly in one format, each sentinel once and in order, is text and nothing else."""
    told = client.post("/completion", json={"prompt": prompt, "temperature": 0, "n_predict": 8}).json()

    assert told["content"] == lm.sample([prompt], temperature=0, max_bytes=8).text


def test_any_model_name_is_the_model(client: TestClient) -> None:
    """A request's model is not looked at: no name of a file opens anything."""
    told = client.post("/v1/completions", json={"model": "/etc/passwd", "prompt": "a", "max_tokens": 1})

    assert told.json()["model"] == "toy"
    assert client.get("/v1/models").json()["data"][0]["id"] == "toy"


# ---- llama.cpp


def test_an_answer_matches_llama_vims_expression(client: TestClient) -> None:
    """The raw body has no space behind a colon, and fields with a slash come under their whole name."""
    body = {"input_prefix": "a", "prompt": "b", "input_suffix": "", "n_predict": 3, "seed": 1}

    told = client.post("/infill", json={**body, "response_fields": ["content", "timings/prompt_n", "timings/nothing"]})

    assert re.search(r'"content"\s*:"', told.text)
    assert '"content":"' in told.text
    assert set(told.json()) == {"content", "timings/prompt_n"}


def test_a_warm_up_writes_nothing(client: TestClient, lm: ByteLM) -> None:
    """With n_predict 0 the prompt is evaluated, so that the next request feeds less."""
    body = {"input_prefix": "zebra crossing\n", "prompt": "qu", "input_suffix": "x", "temperature": 0}

    warm = client.post("/infill", json={**body, "n_predict": 0, "response_fields": [""]})
    empty = client.post("/infill", json={**body, "n_predict": 0})

    assert warm.json() == {}
    assert empty.json()["content"] == ""
    assert empty.json()["tokens_predicted"] == 0


def test_samplers_name_what_is_on(client: TestClient, lm: ByteLM) -> None:
    """A filter that samplers does not name is off, and so is the temperature."""
    body = {"prompt": PROMPT, "n_predict": 9, "seed": 5, "top_k": 1, "temperature": 0.01, "samplers": ["infill"]}

    told = client.post("/completion", json=body).json()

    assert told["content"] == lm.sample(PROMPT, max_bytes=9, seed=5).text


def test_a_line_of_less_indentation_ends_it(client: TestClient, lm: ByteLM) -> None:
    """With n_indent a completion ends before the text of the first line that is indented less."""
    seed = next(s for s in range(500) if "\n" in lm.sample("a", seed=s, max_bytes=30).text)
    full = lm.sample("a", seed=seed, max_bytes=30).text

    told = client.post(
        "/completion", json={"prompt": "a", "n_predict": 30, "seed": seed, "temperature": 1, "n_indent": 40}
    )

    content = told.json()["content"]
    assert full.startswith(content)
    assert content.partition("\n")[2].strip(" \t") == ""
    assert told.json()["stop_type"] == "limit"


def test_several_answers_are_a_list(client: TestClient, lm: ByteLM) -> None:
    """n_cmpl above 1 gives an array of answers."""
    told = client.post("/completion", json={"prompt": "a", "n_cmpl": 2, "seed": 3, "n_predict": 4, "temperature": 1})

    expected: Any = lm.sample("a", n=2, seed=3, max_bytes=4)
    assert [each["content"] for each in told.json()] == [each.text for each in expected]


def test_tokens_are_bytes(client: TestClient) -> None:
    """Tokenizing gives bytes, and back; lm-eval's end of text is 256 and has no text."""
    end = client.get("/tokenizer_info").json()["eos_token"]

    assert client.post("/tokenize", json={"content": "é"}).json()["tokens"] == [0xC3, 0xA9]
    assert client.post("/tokenize", json={"prompt": "é"}).json()["tokens"] == [0xC3, 0xA9]
    assert client.post("/tokenize", json={"prompt": end}).json()["tokens"] == [256]
    assert client.post("/tokenize", json={"content": end}).json()["tokens"] == [*end.encode()]
    assert client.post("/detokenize", json={"tokens": [0xC3, 0xA9, 256]}).json()["content"] == "é"
    assert client.post("/detokenize", json={"tokens": [300]}).status_code == 400


def test_what_the_server_is(client: TestClient) -> None:
    """Health, properties and slots are told as llama.cpp's server tells them."""
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/props").json()["total_slots"] == len(client.get("/slots").json())
    assert client.get("/slots").json()[0]["is_processing"] is False


# ---- ollama


def test_ollama_streams_lines(client: TestClient, lm: ByteLM) -> None:
    """Each line is an object; the last one is done and says why."""
    body = {"prompt": PROMPT, "raw": True, "options": {"temperature": 0, "num_predict": 6}}

    told = client.post("/api/generate", json=body)

    *lines, last = [json.loads(each) for each in told.text.splitlines()]
    assert "".join(each["response"] for each in lines) == lm.sample(PROMPT, temperature=0, max_bytes=6).text
    assert last["done"] is True
    assert last["done_reason"] in ("stop", "length")
    assert ".Suffix" in client.post("/api/show", json={"model": "x"}).json()["template"]
    assert client.get("/api/tags").json()["models"][0]["name"] == "toy"


# ---- our own


def test_the_next_byte_is_the_row(client: TestClient, lm: ByteLM) -> None:
    """The likeliest bytes come with their log-probabilities, the others as a sum."""
    told = client.post("/bytelm/next", json={"prefix": {"base64": base64.b64encode(b"caf\xc3").decode()}, "top": 3})

    row = lm.next_byte_logprobs(b"caf\xc3")
    likeliest = sorted(range(257), key=lambda symbol: -row[symbol])[:3]
    assert [each["byte"] if each["byte"] is not None else 256 for each in told.json()["symbols"]] == likeliest
    assert [each["logprob"] for each in told.json()["symbols"]] == [row[symbol] for symbol in likeliest]
    rest = sum(math.exp(row[symbol]) for symbol in range(257) if symbol not in likeliest)
    assert math.exp(told.json()["rest_logprob"]) == pytest.approx(rest)


def test_scores_of_bytes_and_tokens(client: TestClient, lm: ByteLM) -> None:
    """The bytes' log-probabilities sum to the text's, and the canonical tokens span the text."""
    text = "the quick\n"

    told = client.post("/bytelm/logprobs", json={"text": text, "tokens": True}).json()

    assert told["logprob"] == pytest.approx(lm.logprob(text), abs=1e-9)
    assert [each["byte"] for each in told["bytes"]] == [*text.encode()]
    assert [each["start"] for each in told["tokens"][1:]] == [each["end"] for each in told["tokens"][:-1]]
    assert told["tokens"][-1]["end"] == len(text)
    assert "".join(each["shown"] for each in told["tokens"]) == text


def test_the_cover_is_the_librarys(client: TestClient, lm: ByteLM) -> None:
    """The token sequences come the likeliest first, with their shares of the whole."""
    told = client.post("/bytelm/cover", json={"prefix": PROMPT, "top": 2}).json()

    items = lm.cover(PROMPT)
    (member,) = told["members"]
    assert [each["token_ids"] for each in member["items"]] == [list(item.token_ids) for item in items[:2]]
    assert member["left_out"] == max(len(items) - 2, 0)
    assert told["logprob"] == pytest.approx(lm.logprob(PROMPT))


def test_the_covers_of_an_ensemble_have_the_members_names(serve: Serve, lm: ByteLM) -> None:
    """Each member has its own cover under its own name, and so have the models of an ensemble of ensembles."""
    told = serve(Ensemble([lm, lm]), name="a + b").post("/bytelm/cover", json={"prefix": PROMPT}).json()
    nested = serve(Ensemble([lm, Ensemble([lm, lm])]), name="a + b").post("/bytelm/cover", json={"prefix": "a"}).json()

    assert [each["name"] for each in told["members"]] == ["a", "b"]
    assert len(nested["members"]) == 3


def test_the_likeliest_endings(client: TestClient, lm: ByteLM) -> None:
    """The likeliest endings are those of the library, of a hole as well."""
    plain = client.post("/bytelm/likeliest", json={"prefix": PROMPT, "n": 3, "stop": "e", "max_bytes": 3}).json()
    hole = client.post("/bytelm/likeliest", json={"prefix": "a", "suffix": "b", "n": 2, "stop": "e", "max_bytes": 2})

    expected = lm.likeliest(PROMPT, n=3, stop="e", max_bytes=3)
    filled = lm.infill_likeliest("a", "b", n=2, stop="e", max_bytes=2)
    assert [each["logprob"] for each in plain["endings"]] == pytest.approx([each.logprob for each in expected])
    assert plain["certified"] is True
    assert [base64.b64decode(each["base64"]) for each in hole.json()["endings"]] == [each.bytes for each in filled]


def test_who_drove_an_ensemble(serve: Serve, lm: ByteLM) -> None:
    """An ensemble says what each member gave each byte, and who drove it; a single model has nobody to name."""
    ensemble = Ensemble([lm, lm], weights=[0.9, 0.1])
    client = serve(ensemble, name="a + b")

    told = client.post("/bytelm/explain", json={"text": "qu", "prefix": "the "}).json()

    expected = ensemble.explain("qu", prefix="the ")
    assert told["members"] == ["a", "b"]
    assert [each["driver"] for each in told["bytes"]] == list(expected.drivers)
    assert [each["logprob"] for each in told["bytes"]] == pytest.approx(expected.logprobs.tolist())
    assert serve().post("/bytelm/explain", json={"text": "qu"}).status_code == 400


def test_our_stream_ends_with_the_completion(client: TestClient, lm: ByteLM) -> None:
    """The pieces join to the text, and the last event has the completion's own numbers."""
    told = client.post("/bytelm/sample", json={"prefix": PROMPT, "max_bytes": 6, "seed": 2, "stream": True})

    *parts, last = events(told.text)
    done = lm.sample(PROMPT, params=SamplingParams(max_bytes=6, seed=2))
    assert "".join(each["text"] for each in parts) == done.text
    assert base64.b64decode(last["completion"]["base64"]) == done.bytes
    assert last["completion"]["logprob"] == pytest.approx(done.logprob)
    assert last["completion"]["finish_reason"] == done.finish_reason


def test_the_page_is_served_with_a_policy(client: TestClient) -> None:
    """The page and its files come from here, and nothing else may be loaded."""
    page = client.get("/")

    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="/?(page/[^"]+)"', page.text):
        assert client.get(f"/{name}").status_code == 200
    assert client.get("/page/nothing.js").status_code == 404
    assert client.get("/page/..%2Fapp.py").status_code == 404
