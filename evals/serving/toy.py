"""A random model that a server answers from at once, for the fuzz and for tests: ``python -m evals.serving.toy``.

Its rows are drawn from a hash (`TableLM`), so they cost no model. It has what a real one has: byte-level tokens, an end
of text, sentinels to fill in with, a chat template, and an end of its context.

Rules
    The same arguments make the same model in every process, so the right answer to a request can be computed anywhere.
    The server prints the line that `bytelm serve` prints once it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

from bytelm import ByteLM, LeakWarning, TableLM
from evals.cost.prompts import PROMPTS

NAME: Final = "toy"
VOCAB: Final = 420
CONTEXT: Final = 512  # tokens
BODY_SECONDS: Final = 2.0  # that a client may take to send a request
CHAT: Final = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SENTINELS: Final = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


class ToyLM(TableLM):
    """A random engine with an end of its context.

    Attributes:
        context_length: Tokens of a sequence, at most.
    """

    def __init__(self, tokenizer: Any, *, seed: int = 0) -> None:
        super().__init__(tokenizer, seed=seed, temperature=1.5, order=4)
        self.context_length = CONTEXT


def toy_tokenizer() -> Any:
    """A byte-level tokenizer of `VOCAB` tokens, trained on the prompts of evals.cost."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|start|>", *SENTINELS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer: Any = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(PROMPTS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", chat_template=CHAT)  # noqa: S106 - a token of text


def toy_model(*, seed: int = 0) -> ByteLM:
    """The model, by its seed. Its rows leak, as those of any random model do: nobody is warned of that."""
    warnings.filterwarnings("ignore", category=LeakWarning)
    return ByteLM(ToyLM(toy_tokenizer(), seed=seed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the model until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m evals.serving.toy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-bytes", type=int, default=64)
    options = parser.parse_args(arguments)
    asyncio.run(_serve(options))
    return 0


async def _serve(options: argparse.Namespace) -> None:
    import uvicorn

    from bytelm.serving.app import ServerSettings, create_app

    app = create_app(
        toy_model(seed=options.seed), ServerSettings(name=NAME, max_bytes=options.max_bytes, body_seconds=BODY_SECONDS)
    )
    server = uvicorn.Server(uvicorn.Config(app, port=options.port, log_level="warning", access_log=False))
    served = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if served.done():
            break
    port = server.servers[0].sockets[0].getsockname()[1]
    print(f"bytelm serves {NAME} at http://127.0.0.1:{port}/", file=sys.stderr, flush=True)
    await served


if __name__ == "__main__":
    sys.exit(main())
