"""What an engine says of its model in ids: whether the tokenizer fits, which ids end a text, which one starts it.

Rules
    Ids that the caller gives are obeyed. Of those that are found, one that text becomes cannot end a text: the bytes of
    that text would have probability 0. The default of a configuration that was made for another tokenizer is such an
    id (`LlamaConfig` says 2, which is "#" in GPT-2's vocabulary). It is left out, with a warning. An end of text that
    the tokenizer itself names is special there, and no text becomes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from bytelm.arguments import eot_ids_of, integer
from bytelm.engines.transformers.traits import text_config
from bytelm.errors import BytelmWarning, InvalidArgumentError, InvalidTypeError, VocabularyMismatchError
from bytelm.tokenizer.control_tokens import CONTROL_TOKENS
from bytelm.tokenizer.tokenizer_json import backend_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# Behind these a token is tried: alone, within a word or a number, after punctuation, a space, a line end.
_BEFORE: Final = ("", "a", "0", ".", " ", "\n")


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
    """The ids that end a text: those given, or what the model's and the tokenizer's configurations name.

    Raises:
        InvalidArgumentError: A given id is no column.
    """
    if given is not None:
        return eot_ids_of(given, columns)
    return without_text(named_ends(model, tokenizer, columns), tokenizer)


def named_ends(model: Any, tokenizer: Any, columns: int) -> frozenset[int]:
    """All ids that the model's and the tokenizer's configurations name as ends of text."""
    found: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config, text_config(model), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple | set) else () if value is None else (value,))
    return frozenset(i for i in found if 0 <= i < columns)


def without_text(ends: Iterable[int], tokenizer: Any) -> frozenset[int]:
    """Ends of text that were found, less those that text becomes, of which a warning tells."""
    found = frozenset(ends)
    text = ends_in_text(found, tokenizer)
    for i, spelled in text.items():
        warnings.warn(left_out(i, spelled), BytelmWarning, stacklevel=2)
    return found.difference(text)


def left_out(i: int, spelled: str) -> str:
    """Why an id does not end a text, and what to do."""
    return (
        f"the model's configuration says that token {i} ends a text, but it spells {spelled!r} in the tokenizer's "
        "vocabulary; it is left out. Give eot_ids= to say which ids end a text"
    )


def ends_in_text(ends: Iterable[int], tokenizer: Any) -> dict[int, str]:
    """The ids that the tokenizer makes of text and does not name as its own end of text, with what they spell."""
    backend, own = backend_of(tokenizer), getattr(tokenizer, "eos_token_id", None)
    texts = {i: text_of(backend, i) for i in sorted(ends) if i != own}
    return {i: spelled for i, spelled in texts.items() if spelled is not None}


def text_of(backend: Tokenizer, i: int) -> str | None:
    """What a token spells, if the tokenizer makes it of text; None where it does not."""
    added = backend.get_added_tokens_decoder().get(i)
    if backend.id_to_token(i) is None or (added and (added.special or added.content in CONTROL_TOKENS)):
        return None
    spelled: str = backend.decode([i], skip_special_tokens=False)
    part = "\ufffd" in spelled  # of a character, which no text of its own becomes
    encodings = (backend.encode(before + spelled, add_special_tokens=False) for before in _BEFORE)
    return spelled if part or any(i in encoding.ids for encoding in encodings) else None


def start_id(tokenizer: Any, columns: int, eot_ids: frozenset[int], given: int | None) -> int | None:
    """The id to feed for an empty sequence: the id given, else BOS, else an EOT id, else nothing.

    Raises:
        InvalidArgumentError: The given id is no column.
    """
    if given is not None:
        if not 0 <= integer("start_id", given) < columns:
            raise InvalidArgumentError(f"start_id {given!r} is not in 0..{columns - 1}")
        return given
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, *sorted(eot_ids))
    return next((i for i in candidates if i is not None and 0 <= i < columns), None)
