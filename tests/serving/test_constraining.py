"""Each protocol's own words for what may be written come to the library's constraints."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from bytelm import ByteLM, constraints
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
