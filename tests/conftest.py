"""What several test modules share: the folder of test data, the real tokenizers, the real models."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.evals.sandbox.programs import cells, run, run_once, walls  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from bytelm import ByteLM

hypothesis.settings.register_profile("default", deadline=None)
# In CI the same examples run every time: a red run is one that can be had again.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def caller_errs() -> Iterator[None]:
    """For tests of wrong types: jaxtyping's checks are off, so that bytelm's own are what the caller meets."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder named by BYTELM_TEST_DATA, with the real tokenizers and the benchmark problems."""
    folder = os.environ.get("BYTELM_TEST_DATA")
    if not folder:
        pytest.skip("BYTELM_TEST_DATA is not set: it names the folder that holds tokenizers/ and data/")
    return Path(folder)


@pytest.fixture(scope="session")
def load_tokenizer(test_data: Path) -> Callable[[str], Any]:
    """A function from a name such as "gpt2" to that transformers fast tokenizer, each loaded once."""
    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            from tokenizers import Tokenizer
            from transformers import PreTrainedTokenizerFast

            text = lzma.decompress((test_data / "tokenizers" / f"{name}.json.xz").read_bytes()).decode()
            loaded[name] = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text))
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def smollm2() -> ByteLM:
    """SmolLM2-135M-Instruct, from its package; loaded once. Tests that use it are marked slow."""
    from bytelm import ByteLM

    return ByteLM.from_pretrained("demo")


@pytest.fixture(scope="session")
def gemma() -> ByteLM:
    """Gemma-3-270m, from its packages; loaded once. Tests that use it are marked slow."""
    from bytelm import ByteLM

    return ByteLM.from_pretrained("demo-gemma")


@pytest.fixture(scope="session")
def fim() -> ByteLM:
    """SmolLM2-135M-Instruct with the adapter that fills in; loaded once. Tests that use it are marked slow."""
    from bytelm import ByteLM

    return ByteLM.from_pretrained("demo-fim")
