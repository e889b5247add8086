"""In a hole or a chat each drafter is asked in its own way, and a lookup reads all that is in view."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, Ensemble, Lookup, SamplingParams, TableLM
from bytelm.fim import InfillSettings
from bytelm.fim.files import context_of
from bytelm.inference.frontier import NOTHING
from bytelm.inference.scheduler import Step
from bytelm.sampling.drafter import Drafter
from bytelm.sampling.filters import Filters
from bytelm.sampling.situation import Hole, Situation, Turn
from tests.support.tiny import byte_bpe_tokenizer

STARCODER = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
TEMPLATE = "{% for m in messages %}<|im|>{{ m.role }}: {{ m.content }}\n{% endfor %}<|im|>assistant: "
PREFIX, SUFFIX = "import numpy\nsome_long_name = 1\nprint(some_l", ")\nreturn another_name + 1\n"
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Write out another_name twice."}]


class Recording(TableLM):
    """Notes what it is fed."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.fed: list[tuple[int, ...]] = []

    def next_token_logprobs(self, sequences: Any) -> Any:
        self.fed += [tuple(sequence) for sequence in sequences]
        return super().next_token_logprobs(sequences)


def model(special: tuple[str, ...] = (), *, template: str | None = None, seed: int = 2) -> ByteLM:
    tokenizer = byte_bpe_tokenizer(eos="<|endoftext|>", special=special)
    tokenizer.chat_template = template
    return ByteLM(Recording(tokenizer, seed=seed, order=1, temperature=0.5))


def context_fed(lm: ByteLM) -> tuple[int, ...]:
    """What all sequences that a model was fed begin with."""
    fed: list[tuple[int, ...]] = lm.token_lm.fed  # type: ignore[attr-defined]
    assert fed
    shared = min(map(len, fed))
    while len({sequence[:shared] for sequence in fed}) > 1:
        shared -= 1
    return fed[0][:shared]


def finished(step: Step[Any]) -> Any:
    """What a step comes to that asks for nothing."""
    with pytest.raises(StopIteration) as end:
        next(step)
    return end.value.value


def proposed(drafter: Drafter, prefix: bytes, written: bytes) -> bytes:
    """What a lookup proposes."""
    drafting = drafter.drafting(prefix, Filters(), np.random.default_rng(0))
    return bytes(each.symbol for each in finished(drafting.propose(prefix + written, 6, None, NOTHING)))


def test_a_lookup_reads_all_that_is_in_view() -> None:
    """The whole prefix though only its last line is carried, the suffix, other files, the messages of a chat."""
    files = context_of([("a.py", "def a_function_elsewhere(): ...\n")])
    lookup = Lookup(["# a comment of mine"]).within(Hole(PREFIX, SUFFIX, InfillSettings(context=files)))

    assert proposed(lookup, b"print(some_l", b"") == b"ong_na"
    assert proposed(lookup, b"", b"") == b"ong_na"
    assert proposed(lookup, b"", b"ong_name + another") == b"_name "
    assert proposed(lookup, b"", b" + a_function_else") == b"where("
    assert proposed(lookup, b"", b" # a comment") == b" of mi"
    assert proposed(Lookup().within(Turn(MESSAGES)), b"", b"Here: another") == b"_name "
    begun = [*MESSAGES, {"role": "assistant", "content": b"Here: another"}]
    assert proposed(Lookup().within(Turn(begun, goes_on=True)), b"Here: another", b"") == b"_name "


def test_the_end_of_a_text_hides_no_earlier_place() -> None:
    """Where other texts end as this one does, nothing follows there."""
    assert Lookup([b"abcdefgh-abcdefgh"]).after(b"abcdefgh", 3) == b"-ab"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("special", [QWEN, ()], ids=["its own format", "none"])
def test_a_hole_is_put_to_a_drafter_in_its_own_format(special: tuple[str, ...], stream: bool) -> None:
    """One that has none reads the plain prefix. The middle at temperature 0 is the same."""
    lm, draft = model(STARCODER), model(special, seed=3)
    plain: Any = lm.infill(PREFIX, SUFFIX, temperature=0, max_bytes=20)
    how = InfillSettings(mode="auto" if special else "left")
    _, (own,) = draft.infilling([(PREFIX, SUFFIX)], how)
    options: dict[str, Any] = {"format": "starcoder", "mode": "psm", "temperature": 0, "max_bytes": 20, "draft": draft}

    if stream:
        pieces = lm.infill_stream(PREFIX, SUFFIX, **options)
        assert "".join(pieces) == plain.text
        done: Any = pieces.completion
    else:
        done = lm.infill(PREFIX, SUFFIX, **options)

    assert (done.bytes, done.usage.draft_error) == (plain.bytes, None)
    assert done.usage.drafted > 0
    context = draft.prompt(own).context
    assert context_fed(draft)[: len(context)] == context
    assert bool(context) == bool(special)
    assert draft.spell(context_fed(draft)).startswith(b"import numpy\n")


@pytest.mark.parametrize("template", [TEMPLATE.replace(": ", "> "), None], ids=["its own template", "none"])
def test_a_chat_is_put_to_a_drafter_in_its_own_template(template: str | None) -> None:
    """One that has none reads the messages."""
    lm, draft = model(("<|im|>",), template=TEMPLATE), model(("<|im|>", "<|x|>"), template=template, seed=3)
    begun = [*MESSAGES, {"role": "assistant", "content": b"Here: anot"}]
    for messages, goes_on in ((MESSAGES, False), (begun, True)):
        plain: Any = lm.chat(messages, temperature=0, max_bytes=20, continue_final_message=goes_on)

        done: Any = lm.chat(messages, temperature=0, max_bytes=20, continue_final_message=goes_on, draft=draft)

        assert (done.bytes, done.usage.draft_error) == (plain.bytes, None)
        assert done.usage.drafted > 0
    if template is None:
        assert draft.spell(context_fed(draft)).startswith(b"Write out another_name twice.")
    else:
        context = draft.prompt(draft.chat_prefix(MESSAGES)).context
        assert draft.spell(context) != lm.spell(lm.prompt(lm.chat_prefix(MESSAGES)).context)
        assert any(
            sequence[: len(context)] == context
            for sequence in draft.token_lm.fed  # type: ignore[attr-defined]
        )


def test_ensembles_draft_in_holes() -> None:
    """Each member by its own format."""
    lm, draft = model(STARCODER), Ensemble([model(QWEN, seed=3), model(STARCODER, seed=4)])

    done: Any = lm.infill(PREFIX, SUFFIX, seed=1, max_bytes=20, draft=draft)

    assert done.usage.draft_error is None
    assert done.usage.drafted > 0


def test_each_hole_of_a_batch_has_its_own_drafts() -> None:
    """Of two holes with one carried line and other suffixes."""
    lm = model(STARCODER)
    sides = [(PREFIX, SUFFIX), (PREFIX, "\n" + SUFFIX * 3), ("x", "y")]
    batch: Any = []
    for draft in ("lookup", model(QWEN, seed=3)):
        options: dict[str, Any] = {"temperature": 0, "max_bytes": 30, "draft": draft}

        batch = lm.infill_batch(sides, **options)

        alone: list[Any] = [lm.infill(*pair, **options) for pair in sides]
        assert [each.bytes for each in batch] == [each.bytes for each in alone]
        assert [each.usage.drafted for each in batch] == [each.usage.drafted for each in alone]
    assert len({each.usage.drafted for each in batch}) > 1


def test_nothing_is_changed_where_nothing_drafts() -> None:
    """Parameters without a drafter are the same ones."""
    situation: Situation = Turn(MESSAGES)
    params = SamplingParams()

    assert situation.drafted(params) is params
