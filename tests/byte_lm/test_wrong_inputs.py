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
