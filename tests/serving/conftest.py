"""A small model with sentinels behind the server, asked without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from bytelm import ByteLM, TableLM
from bytelm.sampling.byte_model import ByteModel
from bytelm.serving.app import ServerSettings, create_app
from tests.support.tiny import byte_bpe_tokenizer

SENTINELS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")

Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def lm() -> ByteLM:
    """A table over a byte-level vocabulary, with the sentinels of StarCoder."""
    return ByteLM(TableLM(byte_bpe_tokenizer(eos="<|endoftext|>", special=SENTINELS), seed=3, temperature=1.5))


@pytest.fixture
def serve(lm: ByteLM) -> Iterator[Serve]:
    """Makes servers, each with settings and a model of its own if they are given."""
    with ExitStack() as stack:

        def made(model: ByteModel[Any, Any] | None = None, **settings: Any) -> TestClient:
            app = create_app(lm if model is None else model, ServerSettings(**settings))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield made


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """A server of the small model."""
    return serve(name="toy")
