"""Each protocol's own words for what may be written come to the library's constraints."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from bytelm import ByteLM, Ensemble, constraints
from tests.byte_lm.test_public_face import chatting
from tests.serving.conftest import Serve
from tests.serving.test_protocols import events

SCHEMA = {"type": "array", "items": {"enum": ["yes", "no"]}, "minItems": 2, "maxItems": 2}
LIST = r'\["(yes|no)","(yes|no)"\]'
FORMAT = {"type": "json_schema", "json_schema": {"name": "list", "strict": True, "schema": SCHEMA}}
CHAT = [{"role": "user", "content": "the qui"}]


@pytest.mark.parametrize(
    ("path", "body", "written"),
    [
        ("/v1/completions", {"prompt": "a", "response_format": FORMAT}, LIST),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "regex": "x{3}y?"}, "x{3}y?"),
        ("/v1/completions", {"prompt": "a", "response_format": {"type": "json_object", "schema": SCHEMA}}, LIST),
        ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "[ab]{3}c"}}, "[ab]{3}c"),
        ("/v1/completions", {"prompt": "a", "structured_outputs": {"choice": ["one", "two"]}}, "one|two"),
        ("/v1/completions", {"prompt": "a", "structured_outputs": {"json": SCHEMA, "grammar": None}}, LIST),
        ("/v1/completions", {"prompt": "a", "structured_outputs": {"grammar": 'root ::= "x" [yz]'}}, "x[yz]"),
        ("/v1/completions", {"prompt": "a", "guided_json": json.dumps(SCHEMA)}, LIST),
        ("/v1/completions", {"prompt": "a", "guided_regex": "a{4}"}, "a{4}"),
        ("/v1/completions", {"prompt": "a", "guided_choice": ["é"]}, "é"),
        ("/v1/completions", {"prompt": "a", "guided_grammar": 'start: "x" /[yz]/'}, "x[yz]"),
        ("/completion", {"prompt": "a", "grammar": 'root ::= "x" ("y" | "z")'}, "x[yz]"),
        ("/completion", {"prompt": "a", "json_schema": SCHEMA}, LIST),
        ("/completion", {"prompt": "a", "lark": "start: /[ab]{2}/ /c/"}, "[ab]{2}c"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "json_schema": SCHEMA}, LIST),
        ("/api/generate", {"prompt": "a", "stream": False, "format": SCHEMA}, LIST),
        ("/bytelm/sample", {"prefix": "a", "choice": ["one", "two"]}, "one|two"),
    ],
    ids=range(17),
)
def test_a_completion_is_under_its_constraint(
    client: TestClient, path: str, body: dict[str, Any], written: str
) -> None:
    """Whole, and it says that it stopped."""
    answer = client.post(path, json=body).json()
    text = (
        answer["choices"][0]["text"] if "choices" in answer else answer.get("content", answer.get("response", answer))
    )
    if path == "/bytelm/sample":
        text = answer["completions"][0]["text"] if "completions" in answer else text

    assert re.fullmatch(written, str(text))
    told = answer["choices"][0]["finish_reason"] if "choices" in answer else answer.get("done_reason", "stop")
    assert told == "stop"


def test_chats_are_under_a_constraint(serve: Serve) -> None:
    """OpenAI's, and ollama's with any JSON object."""
    client = serve(chatting())
    told = client.post("/v1/chat/completions", json={"messages": CHAT, "response_format": FORMAT}).json()
    other = client.post("/api/chat", json={"messages": CHAT, "format": SCHEMA, "stream": False}).json()
    any_object = client.post("/api/chat", json={"messages": CHAT, "format": "json", "stream": False}).json()

    assert re.fullmatch(LIST, told["choices"][0]["message"]["content"])
    assert re.fullmatch(LIST, other["message"]["content"])
    assert any_object["message"]["content"].startswith("{")


def test_a_stream_is_what_the_library_writes(client: TestClient, lm: ByteLM) -> None:
    """With a seed, piece by piece."""
    body = {"prompt": "the ", "seed": 4, "stream": True, "response_format": FORMAT, "temperature": 1.5}
    chunks = events(client.post("/v1/completions", json=body).text)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1])

    assert text == lm.sample("the ", seed=4, constraint=constraints.json_schema(SCHEMA), temperature=1.5).text


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"response_format": {"type": "xml"}}, "response_format: the type is text, json_object"),
        (
            "/v1/completions",
            {"response_format": FORMAT, "regex": "a"},
            "response_format and regex are each a constraint",
        ),
        ("/v1/completions", {"guided_regex": "["}, "guided_regex: the regular expression '['"),
        ("/v1/completions", {"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs: it has one of"),
        ("/v1/completions", {"structured_outputs": {"structural_tag": "x"}}, "structured_outputs: it has one of"),
        ("/v1/completions", {"structured_outputs": "json"}, "structured_outputs: it is an object"),
        ("/v1/completions", {"guided_choice": "yes"}, "guided_choice: options must be a list"),
        ("/v1/completions", {"regex": 3}, "regex: pattern must be str"),
        ("/completion", {"json_schema": {"type": "array", "uniqueItems": True}}, "json_schema: "),
        ("/completion", {"json_schema": 3}, "json_schema: schema must be a dict"),
        ("/completion", {"grammar": "root = x"}, "grammar: "),
        ("/api/generate", {"format": "xml"}, "format: schema is not JSON"),
        ("/api/generate", {"options": {"grammar": "root = x"}}, "grammar: "),
    ],
    ids=range(13),
)
def test_what_cannot_be_is_refused(
    client: TestClient, path: str, body: dict[str, Any], said: str, caller_errs: None
) -> None:
    """With status 400, in the protocol's own form, and the field's name."""
    answer = client.post(path, json={"prompt": "a", **body})

    assert answer.status_code == 400
    assert said in json.dumps(answer.json())


def test_a_dead_end_is_the_requests_own_fault(client: TestClient) -> None:
    """It is told so, and the server goes on."""
    answer = client.post(
        "/v1/completions", json={"prompt": "a", "lark": 'start: "a" x\nx: "(" x ")" | "(" x "]"', "max_tokens": 60_000}
    )

    assert answer.status_code == 400
    assert "allows no continuation" in answer.json()["error"]["message"]
    assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize(
    "neutral",
    [
        {"response_format": {"type": "text"}},
        {"grammar": ""},
        {"json_schema": {}},
        {"format": ""},
        {"guided_choice": None},
    ],
)
def test_nothing_said_is_nothing_constrained(client: TestClient, lm: ByteLM, neutral: dict[str, Any]) -> None:
    """The values by which clients say that there is none."""
    answer = client.post("/v1/completions", json={"prompt": "the ", "max_tokens": 5, "seed": 1, **neutral})

    assert answer.json()["choices"][0]["text"] == lm.sample("the ", max_bytes=5, seed=1).text


# ---- whole texts

WORDS = ["a", "abc", "ba", "the"]
WRITERS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "the "}),
    ("/v1/fim/completions", {"prompt": "the "}),
    ("/completion", {"prompt": "the "}),
    ("/api/generate", {"prompt": "the ", "stream": False}),
    ("/bytelm/sample", {"prefix": "the "}),
]


def answer_of(told: Any) -> tuple[str, Any]:
    """The text of an answer in any protocol, and the object in which its reason and its particles are."""
    found = (told.get("choices") or told.get("completions") or [told])[0]
    text = found.get("text", found.get("content", found.get("response")))
    return (found["message"]["content"] if text is None else text), found


def seeded(path: str, body: dict[str, Any], seed: int) -> dict[str, Any]:
    return {**body, "options": {"seed": seed}} if path.startswith("/api/") else {**body, "seed": seed}


@pytest.mark.parametrize(("path", "body"), WRITERS)
def test_the_exact_law_is_the_librarys(client: TestClient, lm: ByteLM, path: str, body: dict[str, Any]) -> None:
    """At temperature 1, whatever the protocol's own is; with "step", or nothing, texts are drawn step by step."""
    made = constraints.choice(WORDS)
    differ = 0
    for seed in range(8):
        asked = {**seeded(path, body, seed), "choice": WORDS}
        exact = client.post(path, json={**asked, "conditioning": "exact", "budget": 500}).json()
        warm = {"options": {"seed": seed, "temperature": 1}} if path.startswith("/api/") else {"temperature": 1}
        step = [client.post(path, json={**asked, **warm, **more}).json() for more in ({"conditioning": "step"}, {})]

        expected = lm.sample("the ", constraint=made, conditioning="exact", seed=seed)
        stepwise = lm.sample("the ", constraint=made, seed=seed).text
        assert answer_of(exact)[0] == expected.text
        assert [answer_of(each)[0] for each in step] == [stepwise, stepwise]
        assert "particles" not in answer_of(exact)[1]
        differ += expected.text != stepwise
    assert differ


@pytest.mark.parametrize(("path", "body"), WRITERS)
def test_particles_are_told_beside_the_text(client: TestClient, lm: ByteLM, path: str, body: dict[str, Any]) -> None:
    """All of them, with what they estimate, as the library has them; in a stream with the last piece."""
    asked = {**seeded(path, body, 3), "choice": WORDS, "particles": 5}

    text, answer = answer_of(client.post(path, json=asked).json())
    streamed = client.post(path, json={**asked, "stream": True}).text
    lines = streamed.strip().split("\n") if path.startswith("/api/") else streamed.strip().split("\n\n")
    *pieces, last = [line.removeprefix("data: ") for line in lines if "[DONE]" not in line]

    done = lm.sample("the ", constraint=constraints.choice(WORDS), particles=5, seed=3)
    assert done.particles is not None
    assert text == done.text
    assert answer["particles"] == {
        "texts": [each.decode() for each in done.particles.texts],
        "weights": pytest.approx(done.particles.weights.tolist()),
        "effective_sample_size": pytest.approx(done.particles.effective_sample_size),
        "log_mass": pytest.approx(done.particles.log_mass),
        "resamplings": done.particles.resamplings,
    }
    told = json.loads(last)
    assert (
        answer_of(told.get("completion", told) if path == "/bytelm/sample" else chunk_of(told))[1]["particles"]
        == (answer["particles"])
    )
    assert sum(done.text in piece for piece in pieces) == 1
    assert not any("particles" in piece for piece in pieces)


def chunk_of(told: Any) -> Any:
    """A chunk of a chat, with a message in the place of its delta."""
    if "choices" in told and "delta" in told["choices"][0]:
        return {"choices": [{**told["choices"][0], "message": told["choices"][0]["delta"]}]}
    return told


def test_chats_draw_whole_texts(serve: Serve) -> None:
    """OpenAI's and ollama's; there, in the options or beside them."""
    lm = chatting()
    client = serve(lm)
    asked = {"messages": CHAT, "choice": WORDS}
    openai = client.post("/v1/chat/completions", json={**asked, "particles": 4, "seed": 2}).json()["choices"][0]
    ollama = client.post("/api/chat", json={**asked, "particles": 4, "stream": False, "options": {"seed": 2}}).json()
    inside = {"seed": 2, "conditioning": "exact", "choice": WORDS}
    exact = client.post("/api/chat", json={"messages": CHAT, "stream": False, "options": inside}).json()

    made = constraints.choice(WORDS)
    done = lm.chat(CHAT, constraint=made, particles=4, seed=2)
    assert openai["message"]["content"] == ollama["message"]["content"] == done.text
    assert openai["particles"] == ollama["particles"]
    assert exact["message"]["content"] == lm.chat(CHAT, constraint=made, conditioning="exact", seed=2).text


def test_a_text_that_is_cut_inside_a_character_is_told_as_bytes(client: TestClient) -> None:
    """As our own protocol has bytes that are no UTF-8."""
    asked = {"prefix": "the ", "choice": ["\u00e9\u00e9"], "particles": 2, "max_bytes": 3, "seed": 1}

    told = client.post("/bytelm/sample", json=asked).json()["completions"][0]["particles"]["texts"]

    assert [base64.b64decode(each["base64"]) for each in told] == ["\u00e9\u00e9".encode()[:3]] * 2


def test_an_ensemble_of_whole_texts_is_served(serve: Serve, lm: ByteLM) -> None:
    """It needs no constraint, and says so where a request asks for bytes."""
    both = Ensemble([lm, lm], combine="minimum", level="string")
    client = serve(both)
    asked = {"prompt": "the ", "max_tokens": 4, "seed": 1}

    done = both.sample("the ", max_bytes=4, seed=1, particles=3)
    assert client.post("/v1/completions", json={**asked, "particles": 3}).json()["choices"][0]["text"] == done.text
    refused = client.post("/v1/completions", json=asked)
    assert refused.status_code == 400
    assert "particles=N" in refused.json()["error"]["message"]


EXACT = {"choice": ["a"], "conditioning": "exact"}


@pytest.mark.usefixtures("caller_errs")
@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"conditioning": "exact"}, "is on a constraint"),
        ("/v1/completions", {"particles": 3}, "is on a constraint"),
        ("/v1/completions", {**EXACT, "particles": 3}, "give one of them"),
        ("/v1/completions", {**EXACT, "temperature": 0.5}, "it takes temperature 1"),
        ("/v1/completions", {"choice": ["a"], "particles": 3, "top_p": 0.9}, "it takes temperature 1"),
        ("/completion", {**EXACT, "top_k": 5}, "it takes temperature 1"),
        ("/api/generate", {**EXACT, "options": {"min_p": 0.1}}, "it takes temperature 1"),
        ("/v1/completions", {"choice": ["a"], "budget": 5}, "budget is the most attempts of conditioning 'exact'"),
        ("/v1/completions", {**EXACT, "budget": 0}, "budget is from 1 to 1000 here; got 0"),
        ("/v1/completions", {**EXACT, "budget": 1001}, "budget is from 1 to 1000 here; got 1001"),
        ("/v1/completions", {"choice": ["a"], "particles": 65}, "particles is from 1 to 64 here; got 65"),
        ("/bytelm/sample", {"choice": ["a"], "particles": 0}, "particles is from 1 to 64 here; got 0"),
        ("/v1/completions", {"choice": ["a"], "conditioning": "mask"}, "conditioning is one of step, exact"),
        ("/v1/completions", {"choice": ["a"], "conditioning": 1}, "conditioning: "),
        ("/v1/completions", {"choice": ["a"], "particles": 1.5}, "particles: "),
    ],
    ids=range(15),
)
def test_whole_texts_that_cannot_be_are_refused(client: TestClient, path: str, body: dict[str, Any], said: str) -> None:
    """One message each, of what is wrong."""
    answer = client.post(path, json={"prompt": "the ", "stream": False, **body})

    assert answer.status_code == 400
    assert said in json.dumps(answer.json())


def test_a_budget_that_is_spent_is_the_requests_own_fault(client: TestClient, serve: Serve) -> None:
    """With status 400, which says how little is allowed; the server's own limit is a budget too."""
    asked = {"prompt": "the ", "choice": ["qzxvkjqzxv"], "conditioning": "exact", "seed": 1}
    small = serve(max_budget=1)

    for client_, more in ((client, {"budget": 1}), (small, {})):
        answer = client_.post("/v1/completions", json={**asked, **more})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "BudgetError"
        assert "1 attempts found no text" in answer.json()["error"]["message"]


def test_warming_up_draws_no_whole_text(client: TestClient) -> None:
    """With n_predict 0 nothing is written, whatever law is asked for."""
    answer = client.post("/completion", json={"prompt": "the ", "n_predict": 0, "choice": ["a"], "particles": 3})

    assert answer.status_code == 200
    assert answer.json()["content"] == ""
    assert "particles" not in answer.json()
