"""What an engine says of its model in ids: whether the tokenizer fits, which ids end a text, which one starts it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bytelm.arguments import eot_ids_of
from bytelm.engines.transformers.traits import text_config
from bytelm.errors import InvalidArgumentError, InvalidTypeError, VocabularyMismatchError
from bytelm.tokenizer.control_tokens import CONTROL_TOKENS
from bytelm.tokenizer.tokenizer_json import backend_of


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no fast tokenizer.

    Raises:
        UnsupportedTokenizerError: It is a slow tokenizer.
        InvalidTypeError: It is something else.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return
    if hasattr(tokenizer, "encode"):
        backend_of(tokenizer)  # says of a slow one what it is
    raise InvalidTypeError(f"tokenizer must be a transformers fast tokenizer, not {type(tokenizer).__name__}")


def check_vocabulary(tokenizer: Any, columns: int) -> None:
    """Refuse a tokenizer whose ordinary tokens the model has no column for.

    Special tokens beyond the last column are allowed (Gemma has one): such an id is never drawn and cannot be scored.

    Raises:
        VocabularyMismatchError: An id that text can become is not below ``columns``.
    """
    added = tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special or token.content in CONTROL_TOKENS}
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= columns and i not in special}
    if beyond:
        i = max(beyond)
        raise VocabularyMismatchError(
            f"the tokenizer has {len(beyond)} ordinary token(s) beyond the model's {columns} columns, up to id {i} "
            f"({beyond[i]!r}): the tokenizer does not match the model; load both from the same place"
        )


def end_ids(model: Any, tokenizer: Any, columns: int, given: Iterable[int] | None) -> frozenset[int]:
    """The ids that end a text: those given, or all that the model's and the tokenizer's configurations name.

    Raises:
        InvalidArgumentError: A given id is no column.
    """
    if given is not None:
        return eot_ids_of(given, columns)
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, text_config(model), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple | set) else () if value is None else (value,))
    return frozenset(i for i in found if 0 <= i < columns)


def start_id(tokenizer: Any, columns: int, eot_ids: frozenset[int], given: int | None) -> int | None:
    """What stands for an empty sequence: the id given, else BOS, else an EOT id, else nothing.

    Raises:
        InvalidArgumentError: The given id is no column.
    """
    if given is not None:
        if not 0 <= given < columns:
            raise InvalidArgumentError(f"start_id {given!r} is not in 0..{columns - 1}")
        return given
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, *sorted(eot_ids))
    return next((i for i in candidates if i is not None and 0 <= i < columns), None)
