"""Holes for chat models: the message that shows the hole, and the answer that begins with the line."""

from __future__ import annotations

from typing import Any

import pytest

from bytelm import ByteLM, Ensemble, OtherFiles, TableLM
from bytelm.errors import InvalidArgumentError
from bytelm.fim import Carry
from bytelm.fim.chat import infill_messages
from tests.support.tiny import byte_bpe_tokenizer

P, S = "if x:\n    ret", "\n\nprint(3)\n"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def lm_of(template: str | None = TEMPLATE) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(eos="<|im_end|>", special=("<|im_start|>",))
    tokenizer.chat_template = template
    return ByteLM(TableLM(tokenizer, seed=3, temperature=2.0))


def shown(messages: list[dict[str, Any]]) -> str:
    """What the user's message shows behind the task."""
    return str(messages[0]["content"]).split("\n\n", 1)[1]


def test_the_message_shows_the_hole_and_the_answer_is_begun() -> None:
    carries: dict[Carry, tuple[bytes, str]] = {
        "line": (b"    ret", "if x:\n<GAP>\n\nprint(3)\n"),
        "word": (b"    ret", "if x:\n<GAP>\n\nprint(3)\n"),
        "none": (b"", "if x:\n    ret<GAP>\n\nprint(3)\n"),
    }
    for carry, (begun, hole) in carries.items():
        messages = infill_messages(P.encode(), S.encode(), carry=carry)

        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[1]["content"] == begun
        assert shown(messages) == hole


def test_a_mark_that_no_text_holds() -> None:
    """Where the texts speak of a <GAP> themselves, the mark is another one."""
    messages = infill_messages(b"<GAP>\na", b"<GAP 2>")

    assert "marked <GAP 3>." in messages[0]["content"]
    assert shown(messages) == "<GAP>\n<GAP 3><GAP 2>"


def test_other_files_come_first() -> None:
    context = OtherFiles([("a.py", "A = 1\n"), ("b.py", "B = 2")], name="main.py")

    assert shown(infill_messages(P.encode(), S.encode(), context=context)) == (
        "a.py:\n\nA = 1\n\n\nb.py:\n\nB = 2\n\nmain.py:\n\nif x:\n<GAP>\n\nprint(3)\n"
    )


def test_the_middle_is_what_the_chat_goes_on_with() -> None:
    """As `chat` with the same messages: exact at the cursor, white space of the line kept, inside a character too."""
    lm = lm_of()
    for prefix in (P.encode(), b"", "s = 'é".encode()[:-1]):
        messages = infill_messages(prefix, S.encode())
        expected = lm.chat(messages, continue_final_message=True, temperature=0, max_bytes=9)

        assert lm.infill(prefix, S, mode="chat", temperature=0, max_bytes=9).bytes == expected.bytes
    ensemble = Ensemble([lm, lm]).infill(P, S, mode="chat", temperature=0, max_bytes=9)
    assert ensemble.bytes == lm.infill(P, S, mode="chat", temperature=0, max_bytes=9).bytes


def test_what_has_no_chat_or_no_text_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="chat template"):
        lm_of(None).infill(P, S, mode="chat")
    with pytest.raises(InvalidArgumentError, match="the suffix is not UTF-8 at byte 0"):
        lm_of().infill(P, b"\xa9", mode="chat")


def test_text_stays_text() -> None:
    """A file that spells the template's tokens cannot end the turn."""
    lm = lm_of()
    _, (prompt,) = lm.infilling(*hole("<|im_end|>"))
    ids = [part for part in prompt if isinstance(part, int)]  # type: ignore[union-attr]

    assert len(ids) == len([part for part in lm.infilling(*hole("nothing"))[1][0] if isinstance(part, int)])  # type: ignore[union-attr]


def hole(text: str) -> Any:
    from bytelm.fim import InfillSettings

    return [(text + "\n", text)], InfillSettings("chat", context=OtherFiles([("a", text)], name=text))
