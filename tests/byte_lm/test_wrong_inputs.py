"""What is no prompt, and texts that cannot be: the error says which one it was, and what to pass."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bytelm import ByteLM, Ensemble, TableLM
from bytelm.errors import BytelmError, InvalidArgumentError, UnreachablePrefixError
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer

MISTAKEN = """
import numpy as np, torch
from transformers import BatchEncoding
from bytelm import ByteLM, BytelmError, Ensemble, TableLM
from tests.support.tiny import default_tokenizer
tokenizer = default_tokenizer()
lm = ByteLM(TableLM(tokenizer, order=1))
messages = [{"role": "user", "content": "Hi"}]
encoding = tokenizer("the fox")
told = [
    (messages, "lm.chat(messages)"), (messages[0], "lm.chat(messages)"), (encoding, "pass the text itself"),
    (dict(encoding), "pass the text itself"), (tokenizer("the", return_tensors="pt"), "pass the text itself"),
    (encoding.encodings[0], "pass the text itself"), (torch.tensor(encoding["input_ids"]), "array.tolist()"),
    (torch.tensor([encoding["input_ids"]]), "array.tolist()"), (np.array(encoding["input_ids"]), "array.tolist()"),
    ([torch.tensor(encoding["input_ids"])], "array.tolist()"), ([encoding], "pass the text itself"),
    ([encoding["input_ids"]], "a prefix may be such a list"), (None, "a prefix is str, bytes, or a list"),
]
ways = [
    lm.sample, lm.stream, lm.next_byte_logprobs, lm.state, lm.cover, Ensemble([lm, lm]).sample,
    lambda prefix: lm.logprob("a", prefix=prefix), lambda prefix: lm.sample_batch(["a", prefix]),
]
texts = [lm.logprob, lm.byte_logprobs, lambda text: lm.infill(text, "", mode="left"), lm.state("a").advance]
for value, hint in told:
    for way in ways + texts * (hint.startswith(("lm.chat", "pass", "array"))):
        try:
            way(value)
            print(repr(value), "was accepted")
        except BytelmError as error:
            assert isinstance(error, TypeError) and hint in str(error), (value, str(error))
for value, hint in [told[2], (torch.tensor([[1]]), "array.tolist()"), (messages[0], "lm.chat(messages)")]:
    try:
        lm.sample_batch(value)
        print(repr(value), "was accepted")
    except BytelmError as error:
        assert hint in str(error), (value, str(error))
assert lm.sample([np.int64(65), torch.tensor(66), "a"], max_bytes=1, seed=1).bytes
"""


def test_what_other_libraries_take_for_a_prompt_is_told_what_to_pass() -> None:
    """Messages, encodings and arrays are errors that name the call or the form that is meant (no beartype in the way)."""
    run = subprocess.run([sys.executable, "-c", MISTAKEN], capture_output=True, text=True, check=False)

    assert (run.returncode, run.stdout) == (0, ""), run.stderr


def batches() -> tuple[ByteLM, Ensemble]:
    lm = ByteLM(TableLM(default_tokenizer(), order=1))
    other = ByteLM(TableLM(byte_bpe_tokenizer(vocab_size=290), order=1))
    return lm, Ensemble([lm, other])


@pytest.mark.parametrize("kind", [0, 1], ids=["model", "ensemble"])
def test_errors_of_a_batch_name_the_item(kind: int) -> None:
    """Whatever is wrong with one item, the error keeps its class and says which item it is about; alone none is named."""
    lm = batches()[kind]

    with pytest.raises(UnreachablePrefixError, match=r"^item 1 of the batch: ") as caught:
        lm.sample_batch(["a", b"\xff", "b"], n=2)
    assert caught.value.position == 0
    with pytest.raises(InvalidArgumentError, match=r"^item 2 of the batch: .*999999"):
        lm.sample_batch(["a", "b", [999999, "a"]])
    with pytest.raises(InvalidArgumentError, match=r"^item 1 of the batch: .*side by side"):
        lm.sample_batch(["a", ["b", "c"]])
    with pytest.raises(BytelmError, match=r"item 1 of the batch: .*half of a surrogate"):
        lm.infill_batch([("a", "b"), ("a", "\ud83d")], mode="left")
    with pytest.raises(UnreachablePrefixError, match=r"^item 1 of the batch: "):
        lm.infill_batch([("a", "b"), (b"\xff", "c")], mode="left")
    with pytest.raises(UnreachablePrefixError) as alone:
        lm.sample(b"\xff")
    assert "item" not in str(alone.value)


def test_errors_of_a_batch_name_the_item_while_it_is_drawn() -> None:
    """A processor that leaves nothing after one text alone is an error about that item; what was finished is kept."""
    lm, _ = batches()

    def fails(so_far: bytes, row: object) -> object:
        calls.append(so_far)
        return row if len(calls) < 3 else [float("-inf")] * 257

    calls: list[bytes] = []
    with pytest.raises(InvalidArgumentError, match=r"^item 1 of the batch: logits_processor"):
        lm.sample_batch(["a", "b"], n=2, max_bytes=1, logits_processor=fails)  # type: ignore[arg-type]


def test_infilling_names_the_pair_whose_text_has_no_encoding() -> None:
    """In a format's prompt one side is encoded by itself: where that cannot be, the pair is named."""
    tokenizer = byte_bpe_tokenizer(special=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), eos="<|endoftext|>")
    lm = ByteLM(TableLM(tokenizer, order=1))

    with pytest.raises(UnreachablePrefixError, match=r"^item 2 of the batch: the suffix is not UTF-8"):
        lm.infill_batch([("a", "b"), ("c", "d"), ("a", b"\xff")])
    with pytest.raises(UnreachablePrefixError, match=r"^member 0 of the ensemble: item 2 of the batch: the suffix"):
        Ensemble([lm, lm]).infill_batch([("a", "b"), ("c", "d"), ("a", b"\xff")])
