"""Teaching a model to fill in the middle, at toy size: a random Llama, a tiny tokenizer, three made-up packages."""

from __future__ import annotations

import copy
import gzip
import json
import math
import shutil
import signal
from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from bytelm.byte_lm.model import ByteLM
from bytelm.cover.prefix import bos_ids_of
from bytelm.errors import BytelmError, ContextOverflowError, ModelError, NoInfillFormatError, UnsupportedTokenizerError
from evals.fim_finetune import __main__ as fim_finetune
from evals.fim_finetune import training
from evals.fim_finetune.__main__ import CheckpointError
from evals.fim_finetune.adapter import WEIGHTS, AdapterError, file_sha256, load_base
from evals.fim_finetune.corpus import Benchmark, CorpusError, Function, build, functions_of
from evals.fim_finetune.manifest import ManifestError
from evals.fim_finetune.samples import MODES, Batches, Encoder, Hole, Sample, cut, held_out_samples, packed
from evals.fim_finetune.settings import Choice, Holes
from evals.fim_finetune.sources import find_sources, is_permissive, licence_of
from evals.fim_finetune.training import collate, held_out_loss, summed_loss
from tests.cover.test_prefix import with_template
from tests.support.tiny import byte_bpe_tokenizer, sentencepiece_bpe_tokenizer, tiny_model

SENTINELS = ("<gh_stars>", "<empty_output>", "<issue_closed>")
VERBS = ("add", "drop", "find", "give", "hide", "join", "keep", "lift", "make", "note", "open", "pack")
NOUNS = ("apple", "bread", "chair", "drum", "eagle", "fork", "glass", "horse")


def module(prefix: str) -> str:
    """A file of functions that are much alike, so that a toy model can learn what stands in a hole."""
    return "\n".join(
        f"def {prefix}_{verb}_{noun}(items):\n"
        f"    found = [item for item in items if item == '{noun}']\n"
        f"    for item in found:\n        {verb}(item, '{noun}')\n    return [] if found is None else found\n"
        for verb in VERBS
        for noun in NOUNS
    )


def install(folder: Path, name: str, *, licence: str = "License-Expression: MIT", files: dict[str, str]) -> None:
    """Write a package as pip leaves it."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{licence}\n")
    (about / "RECORD").write_text("".join(f"{name}/{path},,\n" for path in files))
    for path, text in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(text)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_bpe_tokenizer(
        vocab_size=353, corpus=[module("a")], eos="<|endoftext|>", special=SENTINELS, pre_tokenizer="smollm2"
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with a model, packages and a benchmark."""
    root = tmp_path_factory.mktemp("world")
    install(root / "site", "alpha", files={"a.py": module("a"), "tests/t.py": module("t")})
    install(root / "site", "beta", files={"b.py": module("b")})
    install(root / "site", "gamma", files={"c.py": module("c")})
    install(root / "site", "closed", licence="License-Expression: GPL-3.0-only", files={"d.py": module("d")})
    row = {"task_id": "0", "entry_point": "b_add_apple", "prompt": "def b_add_apple():", "canonical_solution": "\n"}
    (root / "bench.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    model = tiny_model("llama", vocab_size=353, dtype=torch.float32, max_position_embeddings=503)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    return root


def words(world: Path, *arguments: str, quick: bool = True) -> list[str]:
    """The command's arguments on the made-up packages."""
    where = ("--model", str(world / "model"), "--site-packages", str(world / "site"), "--device", "cpu")
    what = ("--benchmark", str(world / "bench.jsonl.gz")) if "--no-dedup" not in arguments else ()
    return [*where, *what, *(QUICK if quick else ()), *arguments]


def run(world: Path, *arguments: str, quick: bool = True) -> int:
    """The command, as a user calls it."""
    return fim_finetune.main(words(world, *arguments, quick=quick))


QUICK = (
    *("--packages", "alpha", "beta", "--held-out-packages", "gamma", "--held-out-functions", "7", "--dtype", "float32"),
    *("--steps", "12", "--evaluate-every", "5", "--checkpoint-every", "3", "--batch-tokens", "700", "--rank", "4"),
    *("--dropout", "0.1", "--learning-rate", "0.02", "--warmup", "0.25", "--first-weight", "2"),
)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log of steps and held-out losses, without what a clock says."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    records = [record for record in history if "loss" in record or "eval_loss" in record]
    return [{key: value for key, value in record.items() if not key.startswith("train_")} for record in records]


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    out = world / "whole"
    assert run(world, "--out", str(out)) == 0
    return out


# Sources and licences


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT", True),
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("(MIT AND Zlib) OR 0BSD", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT OR GPL-3.0-only", False),
        ("LGPL-2.1-or-later", False),
        ("LicenseRef-Mine", False),
        ("LLVM-exception", False),
        ("", False),
    ],
)
def test_all_licences_of_an_expression_count(expression: str, expected: bool) -> None:
    """An SPDX expression is permissive if each licence that it names is."""
    assert is_permissive(expression) == expected


@pytest.mark.parametrize(
    ("expression", "classifiers", "field", "expected"),
    [
        (None, ["License :: OSI Approved :: MIT License"], None, True),
        (None, ["License :: OSI Approved :: MIT License"], "a whole\nlicence text", True),
        (None, ["License :: OSI Approved :: MIT License"], "MPL-2.0 AND MIT", False),
        (None, ["License :: OSI Approved"], "MIT", False),
        (None, ["Topic :: Games"], "Apache 2.0 License", True),
        (None, [], "a whole\nlicence text", False),
        (None, [], None, False),
        ("GPL-3.0-only", ["License :: OSI Approved :: MIT License"], "MIT", False),
    ],
)
def test_everything_said_of_a_licence_counts(
    expression: str | None, classifiers: list[str], field: str | None, expected: bool
) -> None:
    """The expression decides where there is one; else every classifier and the one-line field; silence is no licence."""
    assert licence_of(expression, classifiers, field)[1] == expected


def test_only_permissive_source_is_found(world: Path) -> None:
    """Packages under other licences and folders of tests are left out, with the reason kept."""
    sources, left_out = find_sources(("alpha", "Closed", "absent"), [world / "site"])

    assert [(s.package, s.version, s.licence, [name for name, _ in s.files]) for s in sources] == [
        ("alpha", "1.0", "MIT", ["alpha/a.py"])
    ]
    assert left_out == {"absent": "not installed", "closed": "licence: GPL-3.0-only"}


def test_the_standard_library_is_a_package() -> None:
    """Its files are found under its own licence, without those of its tests and of what is installed beside it."""
    sources, _ = find_sources(["python"])
    names = [name for name, _ in sources[0].files]

    assert (sources[0].package, sources[0].licence) == ("python", "PSF-2.0")
    assert {"textwrap.py", "json/decoder.py"} <= {*names}
    assert not [name for name in names if "site-packages" in name or name.startswith("test/")]
    assert names == sorted(names)


# The corpus


def test_functions_are_whole_lines_without_their_indentation() -> None:
    """Decorators belong to a function, a method is one, a function inside another is not, a form feed ends no line."""
    source = "x = 1\n\x0c\nclass A:\n    @property\n    def a(self):\n        def b(): pass\n        return b\nasync def c(): ..."

    actual = [(function.name, function.line, function.text) for function in functions_of(source)]

    assert actual == [
        ("a", 4, "@property\ndef a(self):\n    def b(): pass\n    return b\n"),
        ("c", 8, "async def c(): ...\n"),
    ]
    assert list(functions_of("def broken(:")) == []


def test_a_corpus_holds_nothing_twice_and_nothing_of_the_benchmark(tmp_path: Path) -> None:
    """Out go copies (also of what is held out), functions named as in the benchmark, and those with a line of it."""
    long = "the_sum_of_all = sum(value for value in values if value > 0)"
    body = "    # a comment that makes it long enough to be taken\n    return 1\n"
    kept = f"def kept():\n{body}"
    install(
        tmp_path,
        "train",
        files={
            "m.py": f"{kept}\ndef copied():\n{body}\ndef copied():\n\n{body}\ndef solve():\n{body}\n"
            f"def lined(values):\n    {long}  # more\n{body}\ndef short(): ...\n"
        },
    )
    install(tmp_path, "held", files={"m.py": f"def copied():\n{body}"})
    row = {"entry_point": "solve", "prompt": "def f(v):\n", "canonical_solution": f"  {long[:5]}", "suffix": long[5:]}
    (tmp_path / "b.jsonl").write_text(json.dumps(row) + "\n\n")
    benchmark = Benchmark.read([tmp_path / "b.jsonl"])
    choice = Choice(packages=["train"], held_out_packages=["held"], min_chars=40, max_chars=300)

    corpus = build(choice, benchmark, folders=[tmp_path])
    unchecked = build(choice, None, folders=[tmp_path])

    assert [(f.package, f.name) for f in corpus.train] == [("train", "kept")]
    assert [(f.package, f.name) for f in corpus.held_out] == [("held", "copied")]
    assert corpus.record["dropped"] == {"benchmark": 2, "repeated": 2}
    assert [f.name for f in unchecked.train] == ["kept", "solve", "lined"]
    assert unchecked.record["deduplicated_against"] is None


def test_a_share_is_held_out_by_the_function_alone(world: Path) -> None:
    """Held out by sha256, a function is on the same side whatever else is installed, and few come from one package."""
    choice = Choice(packages=["alpha", "beta"], held_out_share=0.25, held_out_functions=1000, per_package=60)
    both = build(choice, None, folders=[world / "site"])
    one = build(Choice(packages=["beta"], held_out_share=0.25, per_package=60), None, folders=[world / "site"])

    held = {f.digest for f in both.held_out}
    assert {f.digest for f in one.held_out} == held & {f.digest for f in (*one.train, *one.held_out)}
    assert len(both.train) + len(both.held_out) == 120
    assert 10 <= len(held) <= 50  # 30 are expected, with a standard deviation of 4.7
    assert held.isdisjoint(f.digest for f in both.train)


# Samples


def test_samples_are_the_format_token_by_token(tokenizer: Any) -> None:
    """PSM is 7 enc(P) 16 enc(S) 10 middle 0 and SPM 7 16 enc(S) 10 enc(P·middle) 0; the loss is on middle and end."""
    ids = dict(zip(SENTINELS, tokenizer.convert_tokens_to_ids(list(SENTINELS)), strict=True))
    begin, hole_id, middle_id, end = *ids.values(), tokenizer.eos_token_id
    encoder = Encoder(tokenizer)

    def enc(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return found

    for p, m, s in [
        ("def a_add(items):\n    ret", "urn found", "\n"),
        ("", "a = 1\n", "b"),
        ("for item", " in x:", ""),
    ]:
        psm, spm = encoder.encode(Hole(p, m, s), "psm"), encoder.encode(Hole(p, m, s), "spm")

        assert [*psm.ids] == [begin, *enc(p), hole_id, *enc(s), middle_id, *enc(m), end]
        assert psm.first == len(psm.ids) - len(enc(m)) - 1
        assert [*spm.ids] == [begin, hole_id, *enc(s), middle_id, *enc(p + m), end]
        # The loss begins with the first token that spells more than the prefix has.
        kept = next(n for n in range(len(enc(p + m)) + 1) if len(tokenizer.decode(enc(p + m)[: n + 1])) > len(p))
        assert spm.first == 3 + len(enc(s)) + kept


def test_samples_agree_with_the_published_ids(test_data: Path, load_tokenizer: Callable[[str], Any]) -> None:
    """On the real tokenizer the sentinels are 7, 16 and 10, and the end is 0, as the given adapter was taught."""
    encoder = Encoder(load_tokenizer("smollm2"))

    psm = encoder.encode(Hole("def add(a, b):\n    ret", "urn a + b", "\n\nprint(add(1, 2))\n"), "psm")
    spm = encoder.encode(Hole("def add(a, b):\n    ret", "urn a + b", "\n\nprint(add(1, 2))\n"), "spm")

    prefix, suffix = (
        load_tokenizer("smollm2")(text, add_special_tokens=False).input_ids
        for text in ("def add(a, b):\n    ret", "\n\nprint(add(1, 2))\n")
    )
    assert [psm.ids[0], psm.ids[-1], spm.ids[0], spm.ids[1], spm.ids[-1]] == [7, 0, 7, 16, 0]
    assert [*spm.ids[2 : 2 + len(suffix)], spm.ids[2 + len(suffix)]] == [*suffix, 10]
    assert [place for place, token in enumerate(psm.ids) if token in (7, 16, 10)] == [
        *(0, len(prefix) + 1, len(prefix) + len(suffix) + 2)
    ]
    # " return" crosses the cursor: in SPM it is the first token of the loss.
    assert encoder.vocab.token_bytes[spm.ids[spm.first]] == b" return"


class Recorder:
    """A model that knows nothing, and notes what it is asked."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.vocab_size, self.eot_ids = tokenizer, 353, frozenset[int]()  # no text ends
        self.asked: set[tuple[int, ...]] = set()

    def next_token_logprobs(self, sequences: Sequence[Sequence[int]]) -> Any:
        self.asked |= {tuple(sequence) for sequence in sequences}
        return np.full((len(sequences), self.vocab_size), -math.log(self.vocab_size))


@pytest.mark.parametrize("bos", [False, True])
def test_samples_are_what_infill_asks(tokenizer: Any, *, bos: bool) -> None:
    """Prompt and middle of a sample are the tokens that bytelm itself gives a model for its infilling prompt, BOS among them."""
    from bytelm.fim import infill_prompt

    if bos:
        tokenizer = with_template(copy.deepcopy(tokenizer), "<|endoftext|> $A")
    encoder, model = Encoder(tokenizer), Recorder(tokenizer)
    before = bos_ids_of(encoder.vocab)
    assert bool(before) == bos
    lm, (closing,) = ByteLM(model), tokenizer.convert_tokens_to_ids(["<gh_stars>"])
    text = module("a")[:101]
    for trial in range(7):
        hole = cut(text, Random(trial), Holes())
        for mode in MODES:
            sides = hole.prefix.encode(), hole.suffix.encode()
            prompt = infill_prompt(encoder.vocab, encoder.form, *sides, mode=mode, before=before)
            sample = encoder.encode(hole, mode)
            last = prompt[-1]
            assert isinstance(last, bytes)
            # Closed by an id, the run of text is no longer open and is encoded as it would be by itself.
            lm.next_byte_logprobs([*prompt[:-1], last + hole.middle.encode(), closing])
            assert (*sample.ids[:-1], closing) in model.asked


def test_text_that_spells_a_sentinel_stays_text(tokenizer: Any) -> None:
    """A function that holds the words of the sentinels has none of their ids."""
    sample = Encoder(tokenizer).encode(Hole("# <issue_closed>", "<|endoftext|>", "<gh_stars>"), "spm")
    specials = {*tokenizer.convert_tokens_to_ids(list(SENTINELS)), tokenizer.eos_token_id}

    assert len([token for token in sample.ids if token in specials]) == 4


def test_tokenizers_that_cannot_be_taught_are_refused(tokenizer: Any) -> None:
    """One without the sentinels, and one that hides a leading space, cannot make samples."""
    with pytest.raises(NoInfillFormatError, match="smollm2"):
        Encoder(byte_bpe_tokenizer())
    hiding = sentencepiece_bpe_tokenizer(prepend=True, added=(*SENTINELS, "<|endoftext|>"))
    with pytest.raises(UnsupportedTokenizerError, match="hides a space"):
        Encoder(hiding)


def test_holes_are_cut_as_stated() -> None:
    """Parts join to the text, middles are never empty, and spans and whole lines come in the stated shares."""
    text = module("a")[:700]
    holes = [cut(text, Random(seed), Holes()) for seed in range(1000)]
    lines = [cut(text, Random(seed), Holes(lines=1.0)) for seed in range(200)]
    spans = [cut(text, Random(seed), Holes(lines=0.0, max_span=50)) for seed in range(200)]

    assert {h.prefix + h.middle + h.suffix for h in (*holes, *lines, *spans)} == {text}
    assert all(h.middle for h in (*holes, *lines, *spans))
    assert all((not h.prefix or h.prefix[-1] == "\n") and (h.middle[-1] == "\n" or not h.suffix) for h in lines)
    assert max(len(h.middle) for h in spans) == 50
    whole = sum((not h.prefix or h.prefix[-1] == "\n") and h.middle[-1] == "\n" for h in holes)
    # 300 are expected with a standard deviation of 14.5, and one span in some hundreds looks like lines.
    assert 240 <= whole <= 370


def test_batches_hold_every_function_once_and_stay_small(tokenizer: Any) -> None:
    """An epoch is a rearrangement of all functions, in both modes; another epoch is another, the same one is the same."""
    functions = list(functions_of(module("a")))
    encoder = Encoder(tokenizer)

    def epoch(number: int) -> list[list[Sample]]:
        return list(Batches(functions, encoder, Holes(), seed=3, batch_tokens=900).epoch(number))

    batches = epoch(0)
    modes = [sample.mode for batch in batches for sample in batch]
    assert len(modes) == len(functions)
    assert 25 <= modes.count("psm") <= 71  # of 96, with a standard deviation of 4.9
    assert all(len(b) == 1 or len(b) * max(len(s.ids) for s in b) <= 900 for b in batches)
    assert epoch(0) == batches
    assert epoch(1) != batches
    endless = Batches(functions, encoder, Holes(), seed=3, batch_tokens=900)
    assert list(islice(endless, len(batches) + len(epoch(1)))) == [*batches, *epoch(1)]


def test_held_out_holes_are_the_same_in_both_modes(tokenizer: Any) -> None:
    """PSM and SPM are measured on one hole of each function, whatever was trained."""
    functions = list(functions_of(module("c")))[:5]
    encoder = Encoder(tokenizer)

    samples = held_out_samples(functions, encoder, Holes(), seed=0)

    assert samples == held_out_samples(functions, encoder, Holes(), seed=0)
    for psm, spm in zip(samples["psm"], samples["spm"], strict=True):
        spelled = [tokenizer.decode(s.ids[s.first :], skip_special_tokens=True) for s in (psm, spm)]
        assert spelled[1].endswith(spelled[0])


# The loss


def test_the_loss_is_that_of_middles_and_ends(tokenizer: Any) -> None:
    """A batch of unequal rows has the loss of its rows one by one, by the definition: −log p of the labelled tokens."""
    model = tiny_model("llama", vocab_size=353)
    encoder = Encoder(tokenizer)
    samples = [
        *held_out_samples(list(functions_of(module("a")))[:3], encoder, Holes(), seed=1)["psm"],
        *held_out_samples(list(functions_of(module("b")))[:4], encoder, Holes(), seed=2)["spm"],
    ]

    expected, first, count = 0.0, 0.0, 0
    for sample in samples:
        rows = torch.log_softmax(model(torch.tensor([sample.ids])).logits[0], -1)
        first -= float(rows[sample.first - 1, sample.ids[sample.first]].detach())
        for place in range(sample.first, len(sample.ids)):
            expected -= float(rows[place - 1, sample.ids[place]].detach())
            count += 1
    inputs = collate(samples)
    labels = inputs.pop("labels")
    logits = model(**inputs).logits
    total, tokens = summed_loss(logits, labels)
    stressed, weight = summed_loss(logits, labels, first_weight=4.0)

    assert (int(tokens), int(weight)) == (count, count + 3 * len(samples))
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(stressed.detach()) == pytest.approx(expected + 3 * first, rel=1e-5)


def test_what_stands_before_the_middle_is_not_in_the_loss(tokenizer: Any) -> None:
    """Only the rows of labelled tokens have a gradient."""
    model = tiny_model("llama", vocab_size=353)
    (sample,) = held_out_samples(list(functions_of(module("a")))[:1], Encoder(tokenizer), Holes(), seed=1)["psm"]
    seen: list[torch.Tensor] = []
    head = model.get_output_embeddings()

    def note(_module: Any, _inputs: Any, logits: torch.Tensor) -> None:
        logits.retain_grad()
        seen.append(logits)

    hook = head.register_forward_hook(note)

    inputs = collate([sample])
    labels = inputs.pop("labels")
    summed_loss(model(**inputs).logits, labels)[0].backward()
    hook.remove()

    assert seen[0].grad is not None
    assert seen[0].shape[1] == len(sample.ids) - sample.first + 1  # what comes after the end is predicted too
    assert bool((seen[0].grad.abs().sum(-1)[0, :-1] > 0).all())
    assert not seen[0].grad[0, -1].any()


def test_packing_does_not_change_the_held_out_loss(tokenizer: Any) -> None:
    """Held-out losses are means over tokens, however the samples are packed."""
    model = tiny_model("llama", vocab_size=353)
    samples = held_out_samples(list(functions_of(module("a")))[:6], Encoder(tokenizer), Holes(), seed=1)

    one, many = (held_out_loss(model, samples, dtype="float32", batch_tokens=size) for size in (1, 5000))

    assert len(packed(samples["psm"], 1)) == 6
    assert one == pytest.approx(many, rel=1e-5)
    assert {*one} == {"psm", "spm"}


def test_samples_longer_than_the_context_are_refused(tokenizer: Any) -> None:
    """They would be read beyond what the model knows: the message says which option makes them shorter."""
    batches = Batches(list(functions_of(module("a"))), Encoder(tokenizer), Holes(), seed=0, batch_tokens=900, limit=20)

    with pytest.raises(ContextOverflowError, match="lower --max-chars"):
        next(iter(batches))


# Training


def test_the_loss_falls_in_both_modes(whole: Path) -> None:
    """A dozen steps teach a toy model enough to show, in the log and on functions that it never saw."""
    log = log_of(whole)
    held_out = [record for record in log if "eval_loss" in record]

    assert [record["step"] for record in log if "loss" in record] == [*range(1, 13)]
    assert [record["step"] for record in held_out] == [0, 5, 10, 12]
    assert held_out[-1]["eval_psm_loss"] < held_out[0]["eval_psm_loss"] - 1
    assert held_out[-1]["eval_spm_loss"] < held_out[0]["eval_spm_loss"] - 1


def test_the_learning_rate_rises_and_falls(whole: Path) -> None:
    """Linear from 0 over the warm-up, then half a cosine down towards 0."""
    rates = [record["learning_rate"] / 0.02 for record in log_of(whole) if "loss" in record]

    assert rates[:3] == pytest.approx([0, 1 / 3, 2 / 3])  # a quarter of twelve steps
    assert rates[3:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 9) for step in range(9)])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT asks by a name that is going
def test_the_adapter_is_in_pefts_layout(world: Path, whole: Path) -> None:
    """PEFT itself loads what was written: float16, named after its base, with the losses that the manifest says."""
    from peft import PeftModel
    from safetensors.torch import load_file

    manifest = json.loads((whole / "manifest.json").read_text())
    base = load_base(str(world / "model"))
    config = json.loads((whole / "adapter_config.json").read_text())
    weights = load_file(whole / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(base.model, str(whole))
    corpus = build(
        Choice(packages=["alpha"], held_out_packages=["gamma"], held_out_functions=7), None, folders=[world / "site"]
    )
    samples = held_out_samples(corpus.held_out, Encoder(base.tokenizer), Holes(), seed=0)
    actual = held_out_loss(loaded, samples, dtype="float32", batch_tokens=700)

    assert {str(value.dtype) for value in weights.values()} == {"torch.float16"}
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["inference_mode"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("model", f"sha256:{base.sha256}")
    assert manifest["base"] == {"name": "model", "sha256": base.sha256}
    assert actual == pytest.approx(manifest["held_out"]["best"], abs=2e-3)  # float16 against float32


def test_the_manifest_names_what_was_trained_on(whole: Path) -> None:
    """Packages with version, licence, number of functions and sum; seeds and options; benchmark; the adapter's sum."""
    import hashlib

    manifest = json.loads((whole / "manifest.json").read_text())
    packages = {row["package"]: row for row in manifest["corpus"]["packages"]}

    assert {name: (row["version"], row["licence"], row["functions"]) for name, row in packages.items()} == {
        "alpha": ("1.0", "MIT", 96),
        "beta": ("1.0", "MIT", 95),  # one is named as in the benchmark
        "gamma": ("1.0", "MIT", 96),
    }
    assert len({row["sha256"] for row in packages.values()}) == 3
    assert [*manifest["corpus"]["deduplicated_against"]] == ["bench.jsonl.gz"]
    assert manifest["corpus"]["split"] == "held out by package: gamma"
    assert (manifest["settings"]["recipe"]["seed"], manifest["settings"]["recipe"]["steps"]) == (0, 12)
    assert (manifest["ended"], manifest["steps_done"]) == ("steps", 12)
    sha256 = hashlib.sha256((whole / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert manifest["adapter"]["sha256"] == sha256
    assert str(whole.parent) not in json.dumps(manifest)


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Makes something happen in the middle of a step."""

    def arrange(step: int, happens: Callable[[], None]) -> None:
        numbers, original = count(1), torch.optim.AdamW.step

        def stepped(self: Any, *args: Any, **options: Any) -> Any:
            if next(numbers) == step:
                happens()
            return original(self, *args, **options)

        monkeypatch.setattr(torch.optim.AdamW, "step", stepped)

    return arrange


def control_c() -> None:
    signal.raise_signal(signal.SIGINT)


def assert_same(out: Path, whole: Path) -> None:
    """The same log and the same weights, to the last bit."""
    assert log_of(out) == log_of(whole)
    assert file_sha256(out / WEIGHTS) == file_sha256(whole / WEIGHTS)


def test_a_run_goes_on_exactly_where_it_was_interrupted(
    world: Path,
    whole: Path,
    tmp_path: Path,
    in_step: Callable[[int, Callable[[], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted in step 7, by dropout and all: the same log, the same weights, the same held-out losses."""
    out = tmp_path / "out"
    in_step(7, control_c)
    assert run(world, "--out", str(out)) == 130
    assert f"interrupted after step 7; go on with --resume {out}" in capsys.readouterr().err
    assert not (out / WEIGHTS).exists()
    monkeypatch.undo()
    assert run(world, "--resume", str(out / "checkpoint-7"), "--out", str(out), quick=False) == 0

    assert_same(out, whole)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out, whole)]
    differ = {key for key in manifests[0] if manifests[0][key] != manifests[1][key]}
    assert differ <= {"command", "seconds"}


@pytest.mark.parametrize("dies", ["in a step", "in a checkpoint"])
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """Whatever it was doing when it died: --resume with the run's own folder takes the last checkpoint that is whole."""
    from transformers import TrainerState

    out = tmp_path / "out"
    owner, name, number = (torch.optim.AdamW, "step", 8) if dies == "in a step" else (TrainerState, "save_to_json", 3)
    numbers, original = count(1), getattr(owner, name)

    def deadly(*args: Any, **options: Any) -> Any:
        if next(numbers) == number:
            raise SystemExit(137)
        return original(*args, **options)

    monkeypatch.setattr(owner, name, deadly)
    with pytest.raises(SystemExit):
        run(world, "--out", str(out))
    monkeypatch.undo()
    assert (out / "checkpoint-6").exists()  # in the second case half of one
    assert run(world, "--resume", str(out), "--out", str(out), quick=False) == 0

    assert_same(out, whole)


def test_a_full_disk_loses_nothing(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends the run, and the checkpoint of before is there to go on from."""
    out, numbers, original = tmp_path / "out", count(1), torch.save

    def save(content: Any, path: Any) -> None:
        if next(numbers) >= 4:  # Trainer writes three such files into a checkpoint
            raise OSError(28, "No space left on device")
        original(content, path)

    monkeypatch.setattr(torch, "save", save)
    assert run(world, "--out", str(out)) == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.undo()
    assert run(world, "--resume", str(out), "--out", str(out), quick=False) == 0

    assert_same(out, whole)


def test_a_run_may_end_by_the_clock_and_go_on(world: Path, whole: Path, tmp_path: Path) -> None:
    """Out of minutes, a run writes its adapter as it is; what it goes on from is not changed by that."""
    out = tmp_path / "out"
    assert run(world, "--out", str(out), "--minutes", "0") == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["ended"], manifest["steps_done"]) == ("minutes", 1)
    assert (out / WEIGHTS).exists()

    assert run(world, "--resume", str(out), "--out", str(out), quick=False) == 0

    assert_same(out, whole)


def test_a_run_that_has_ended_goes_on_to_the_same(world: Path, whole: Path, tmp_path: Path) -> None:
    """There is nothing left to train, and the adapter is written again."""
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / WEIGHTS).unlink()

    assert run(world, "--resume", str(tmp_path / "out"), "--out", str(tmp_path / "out"), quick=False) == 0

    assert_same(tmp_path / "out", whole)


def test_a_run_is_repeated_from_its_manifest(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest alone says enough to make the same adapter again, bit by bit."""
    manifest = str(whole / "manifest.json")
    assert run(world, "--repeat", manifest, "--out", str(tmp_path / "out"), "--json", quick=False) == 0
    result = json.loads(capsys.readouterr().out)

    assert result["repeated"]["identical"]
    assert result["repeated"]["held_out_difference"] == {"psm": 0.0, "spm": 0.0}
    assert log_of(tmp_path / "out") == log_of(whole)


def test_a_changed_package_is_not_the_manifests(world: Path, whole: Path, tmp_path: Path) -> None:
    """A package with other functions than the manifest says is named."""
    manifest = json.loads((whole / "manifest.json").read_text())
    manifest["corpus"]["packages"][1]["sha256"] = "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    error = failure(world, "--repeat", str(tmp_path / "manifest.json"), "--out", str(tmp_path / "o"), quick=False)

    assert isinstance(error, ManifestError)
    assert "beta 1.0" in str(error)


def test_an_adapter_can_be_trained_further(world: Path, whole: Path, tmp_path: Path) -> None:
    """A new schedule that begins with an adapter begins with its losses, keeps its rank, and is never worse."""
    before = json.loads((whole / "manifest.json").read_text())
    further = [word for word in QUICK if word not in ("--rank", "4")]
    out = tmp_path / "out"
    begin = ("--out", str(out), "--resume", str(whole), "--learning-rate", "0.5", "--seed", "1", "--patience", "1")
    assert run(world, *further, *begin, quick=False) == 0
    manifest = json.loads((out / "manifest.json").read_text())

    assert manifest["start"] == before["adapter"]["sha256"]
    assert manifest["settings"]["shape"]["rank"] == 4
    assert (manifest["ended"], manifest["steps_done"]) == ("early", 5)
    # At so high a rate every step is a loss: what is kept is what it began with, which was best.
    assert manifest["held_out"]["best"] == manifest["held_out"]["before"]
    assert manifest["adapter"]["sha256"] == before["adapter"]["sha256"]


def test_the_best_adapter_of_a_run_is_kept(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be it neither the first nor the last, and measured where no checkpoint is due."""
    from safetensors.torch import load_file

    out, losses = tmp_path / "out", iter([9.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(training, "held_out_loss", lambda *_, **__: dict.fromkeys(MODES, next(losses)))
    often = ("--evaluate-every", "2", "--checkpoint-every", "50", "--patience", "2")
    assert run(world, "--out", str(out), *often) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    kept, then, last = (load_file(folder / WEIGHTS) for folder in (out, out / "checkpoint-2", out / "checkpoint-6"))

    assert (manifest["ended"], manifest["steps_done"]) == ("early", 6)
    assert manifest["held_out"] == {"before": {"psm": 9, "spm": 9}, "best": {"psm": 1, "spm": 1}, "best_step": 2}
    assert all(torch.equal(kept[name], then[name].half()) for name in kept)
    assert not all(torch.equal(kept[name], last[name].half()) for name in kept)


def test_adapters_are_compared_by_one_command(world: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--evaluate` gives what training measured, and the base's own losses."""
    manifest = json.loads((whole / "manifest.json").read_text())["held_out"]

    assert run(world, "--evaluate", "base", str(whole), "--json") == 0
    base, taught = (row["held_out"] for row in json.loads(capsys.readouterr().out)["adapters"])
    assert run(world, "--evaluate", "base", str(whole)) == 0

    assert base == pytest.approx(manifest["before"], rel=1e-5)
    assert taught == pytest.approx(manifest["best"], abs=2e-3)  # float16 against float32
    assert f"{taught['psm']:.4f}" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(torch, "autocast"), reason="this torch has no autocast")
def test_bfloat16_is_near(tokenizer: Any) -> None:
    """Autocast changes the loss in the third digit at most."""
    model = tiny_model("llama", vocab_size=353, dtype=torch.float32)
    samples = held_out_samples(list(functions_of(module("a")))[:6], Encoder(tokenizer), Holes(), seed=1)

    wide, narrow = (held_out_loss(model, samples, dtype=name, batch_tokens=900) for name in ("float32", "bfloat16"))

    assert wide != narrow
    assert narrow == pytest.approx(wide, rel=0.01)


# What can be wrong


def failure(world: Path, *arguments: str, quick: bool = True) -> BytelmError:
    """The error that the command would print."""
    arguments = arguments if "--repeat" in arguments else ("--no-dedup", *arguments)
    with pytest.raises(BytelmError) as raised:
        fim_finetune.run(words(world, *arguments, quick=quick))
    return raised.value


def test_the_command_refuses_to_forget_the_benchmark(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without benchmark files nothing is trained, unless that is said; then it is said back."""
    assert fim_finetune.main(["--out", str(world / "never")]) == 2
    assert "--no-dedup" in capsys.readouterr().err
    assert run(world, "--no-dedup", "--evaluate", "base") == 0
    assert "no deduplication against a benchmark was done" in capsys.readouterr().err


def test_errors_are_one_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2 and says what was wrong."""
    assert run(world, "--evaluate", str(world / "nothing")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_damaged_checkpoints_are_refused(world: Path, whole: Path, tmp_path: Path, name: str) -> None:
    """A file that is cut in half is an error that names the checkpoint."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    file = out / "checkpoint-10" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    command = words(world, "--resume", str(out / "checkpoint-10"), "--out", str(out), quick=False)
    with pytest.raises(BytelmError) as raised:
        fim_finetune.run(command)
    error = raised.value

    assert isinstance(error, CheckpointError)
    assert "checkpoint-10" in str(error)


def test_no_checkpoint_is_said(world: Path, whole: Path, tmp_path: Path) -> None:
    """One that is missing, one that was being written, and a folder that has none."""
    (tmp_path / "checkpoint-5").mkdir()

    for resume in (tmp_path / "checkpoint-3", tmp_path / "checkpoint-5", tmp_path):
        error = failure(world, "--resume", str(resume), "--out", str(tmp_path), quick=False)
        assert isinstance(error, CheckpointError)
        assert str(resume) in str(error)


def test_a_checkpoint_keeps_to_its_run(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options, packages, base and folder of a checkpoint cannot be changed on the way."""
    checkpoint = ("--resume", str(whole / "checkpoint-12"), "--out", str(whole))

    assert "--steps of what is gone on from is 12" in str(failure(world, *checkpoint, "--steps", "13", quick=False))
    assert "was deduplicated against" in str(failure(world, *checkpoint, quick=False))
    shutil.copytree(world / "model", tmp_path / "renamed")
    renamed = words(world, *checkpoint, "--model", str(tmp_path / "renamed"), quick=False)
    assert fim_finetune.main(renamed) == 2
    assert "the run is of the base" in capsys.readouterr().err
    elsewhere = ("--resume", str(whole / "checkpoint-12"), "--out", str(tmp_path))
    assert f"in the folder that it is in: --out {whole}" in str(failure(world, *elsewhere, quick=False))


def test_a_run_is_not_written_over(world: Path, whole: Path, tmp_path: Path) -> None:
    """A folder with an adapter or a checkpoint is not begun anew, be it with the weights of another."""
    (tmp_path / "checkpoint-3").mkdir()

    assert f"holds a run: go on with --resume {whole}" in str(failure(world, "--out", str(whole)))
    assert "holds a run" in str(failure(world, "--out", str(tmp_path)))
    assert "holds a run" in str(failure(world, "--resume", str(whole), "--out", str(tmp_path)))


def test_adapters_of_another_base_are_refused(world: Path, whole: Path, tmp_path: Path) -> None:
    """By name, by sha256, by shape; and a folder that holds none, or half of one."""

    def told(name: str, **changes: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads((whole / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))
        data = (whole / "adapter_model.safetensors").read_bytes()
        (folder / "adapter_model.safetensors").write_bytes(data[:-7] if name == "half" else data)
        error = failure(world, "--evaluate", str(folder))
        assert isinstance(error, AdapterError)
        return str(error)

    assert "is of 'gpt2', not of 'model'" in told("named", base_model_name_or_path="gpt2")
    assert "other weights of 'model'" in told("summed", revision="sha256:00")
    assert "does not fit" in told("shaped", r=5)
    assert "'IA3'" in told("kind", peft_type="IA3")
    assert "damaged" in told("half")
    error = failure(world, "--evaluate", str(tmp_path))
    assert isinstance(error, AdapterError)
    assert "holds no adapter" in str(error)


def test_missing_data_is_named(world: Path, tmp_path: Path) -> None:
    """A benchmark that is not there or is none, packages that give nothing, a model that is no folder."""
    with pytest.raises(CorpusError, match="no benchmark file"):
        Benchmark.read([tmp_path / "none.jsonl"])
    for name, content in (("a.jsonl", b"{"), ("b.jsonl", b"[1]"), ("c.gz", b"\x1f\x8bcut"), ("d.jsonl", b'{"a": 1}')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError, match="holds no benchmark"):
            Benchmark.read([tmp_path / name])
    out = ("--out", str(tmp_path / "out"))
    assert "held out by package: absent" in str(failure(world, *out, "--held-out-packages", "absent"))
    assert "licence: GPL-3.0-only" in str(failure(world, *out, "--packages", "closed"))
    assert isinstance(failure(world, *out, "--model", str(tmp_path / "gone")), ModelError)
    assert "there is no folder" in str(failure(world, *out, "--site-packages", str(tmp_path / "gone")))
    assert isinstance(failure(world, *out, "--repeat", str(tmp_path / "a.jsonl")), ManifestError)


def test_a_second_interrupt_ends_at_once(
    world: Path,
    tmp_path: Path,
    in_step: Callable[[int, Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C twice does not wait for the step; the checkpoint of before is still there to go on from."""
    in_step(5, control_c)
    in_step(5, control_c)  # one after the other, in the same step

    assert run(world, "--out", str(tmp_path / "out")) == 130
    assert "at once" in capsys.readouterr().err.splitlines()[-1]
    assert json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())["global_step"] == 3


def test_too_large_an_adapter_is_refused_before_training(world: Path, tmp_path: Path) -> None:
    """The size on disk is known beforehand."""
    assert "--max-mib is 0.001" in str(failure(world, "--out", str(tmp_path / "o"), "--max-mib", "0.001"))


@pytest.mark.parametrize(
    "option",
    [
        *("--steps 0", "--learning-rate 0", "--first-weight 0", "--held-out-share 1", "--per-package 0", "--lines 1.1"),
        *("--max-span 0", "--rank 0", "--min-chars 900", "--minutes -1", "--dropout 1", "--warmup nan"),
        "--held-out-share 0.5 --held-out-packages gamma",
    ],
)
def test_settings_that_cannot_be_are_refused(world: Path, tmp_path: Path, option: str) -> None:
    """Each is an error that names the option, before anything is done."""
    error = failure(world, "--out", str(tmp_path / "out"), *option.split(), quick=False)

    assert option.split(maxsplit=1)[0] in str(error).replace("max-chars", "min-chars")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["", "--out A --evaluate B", "--evaluate B --resume A"])
def test_a_command_either_trains_or_measures(world: Path, what: str) -> None:
    """It needs one of the two, and takes no more."""
    assert "give --out FOLDER to train" in str(failure(world, *what.split(), quick=False))


def test_an_unknown_option_is_refused(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a value that is none of an option's."""
    with pytest.raises(SystemExit):
        run(world, "--out", "never", "--dtype", "float8")
    assert "float8" in capsys.readouterr().err


def test_a_diverging_run_ends(world: Path, tmp_path: Path) -> None:
    """A gradient that is no number ends training before a checkpoint has it."""
    error = failure(world, "--out", str(tmp_path / "out"), "--learning-rate", "1e12")

    assert "a lower --learning-rate" in str(error)
    assert not (tmp_path / "out" / WEIGHTS).exists()


def test_a_function_is_known_by_its_words() -> None:
    """White space makes no other function of it."""
    one, other = (
        Function("p", "f", 1, "a", text) for text in ("def a():\n    return 1\n", "def a():\n\treturn  1\n\n")
    )

    assert one.digest == other.digest
