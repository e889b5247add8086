"""What an engine says of its model in ids: the tokenizer's fit, the ends of text, and the length of the context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bytelm.engines.transformers.traits import _text_config
from bytelm.errors import (
    ContextOverflowError,
    InvalidArgumentError,
    InvalidTypeError,
    UnsupportedTokenizerError,
    VocabularyMismatchError,
)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no fast tokenizer.

    Raises:
        UnsupportedTokenizerError: It is a slow tokenizer.
        InvalidTypeError: It is something else.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is not None:
        return
    name = type(tokenizer).__name__
    if hasattr(tokenizer, "is_fast"):
        raise UnsupportedTokenizerError(
            f"{name} is a slow tokenizer: it has no backend_tokenizer to read the vocabulary and the merges from; "
            "load it with AutoTokenizer.from_pretrained, or convert it to a tokenizer.json"
        )
    raise InvalidTypeError(f"tokenizer must be a transformers fast tokenizer, not {name}")


def check_vocabulary(tokenizer: Any, columns: int) -> None:
    """Refuse a tokenizer whose ordinary tokens the model has no column for.

    Special tokens beyond the last column are let be (Gemma has one): such an id cannot be scored, only never drawn.

    Raises:
        VocabularyMismatchError: An id that text can become is not below ``columns``.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    beyond = {i: token for token, i in tokenizer.get_vocab().items() if i >= columns and i not in special}
    if beyond:
        i = max(beyond)
        raise VocabularyMismatchError(
            f"the tokenizer has {len(beyond)} ordinary token(s) beyond the model's {columns} columns, up to id {i} "
            f"({beyond[i]!r}): they are not of one another; load both from the same place"
        )


def end_ids(model: Any, tokenizer: Any, columns: int, given: Iterable[int] | None) -> frozenset[int]:
    """The ids that end a text: those given, or all that the model's and the tokenizer's configurations name.

    Raises:
        InvalidArgumentError: A given id is no column.
    """
    if given is not None:
        ids = frozenset(given)
        if not all(0 <= i < columns for i in ids):
            raise InvalidArgumentError(f"eot_ids {sorted(ids)} are not all ids in 0..{columns - 1}")
        return ids
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, _text_config(model), tokenizer):
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


def checked_ids(
    sequence: Any, *, start_id: int | None, columns: int, context_length: int | None, larger: str = ""
) -> tuple[int, ...]:
    """The ids of a sequence, found to be the model's and to fit in its context; of the empty one, ``start_id``.

    Args:
        sequence: What was asked for.
        start_id: What the empty sequence stands for, or None.
        columns: How many ids the model has.
        context_length: How long a sequence may be, or None.
        larger: How one gets a larger context, for the error.

    Raises:
        ContextOverflowError: It is longer than the context.
        InvalidTypeError: It is no sequence of ids.
        InvalidArgumentError: An id is below 0, or there is no start symbol.
        VocabularyMismatchError: An id is not below ``columns``.
    """
    if isinstance(sequence, str | bytes):
        raise InvalidTypeError(f"a sequence is token ids, not text: {sequence!r}; encode it with the tokenizer")
    try:
        ids = tuple(sequence)
        least, greatest = (min(ids), max(ids)) if ids else (0, 0)
        inside = 0 <= least <= greatest < columns
    except TypeError as error:
        raise InvalidTypeError(f"sequences must hold sequences of token ids, not {sequence!r}") from error
    if not ids:
        if start_id is None:
            raise InvalidArgumentError(
                "the empty sequence needs a start symbol, and the tokenizer has neither a BOS nor an EOT id; "
                "give start_id="
            )
        return (start_id,)
    if least < 0:
        raise InvalidArgumentError(f"id {least!r} in a sequence of {len(ids)} tokens is below 0")
    if not inside:
        raise VocabularyMismatchError(
            f"id {greatest} is beyond the model's {columns} ids; tokenizer and model are not of one another, or the id "
            "is of a token that the model was never given"
        )
    if context_length is not None and len(ids) > context_length:
        raise ContextOverflowError(
            f"a sequence of {len(ids)} tokens does not fit in the model's context of {context_length}; shorten the "
            f"prompt, keep its last part, {larger + ', ' if larger else ''}or give a stride to score a long text"
        )
    return ids


def context_full(context_length: int | None, larger: str = "") -> ContextOverflowError:
    """The error of a completion that has come to the end of the context; ``larger``: as for `checked_ids`."""
    return ContextOverflowError(
        f"a completion has come to the end of the model's context of {context_length} tokens; give a lower max_bytes "
        f"or a shorter prompt{', or ' + larger if larger else ''}"
    )
