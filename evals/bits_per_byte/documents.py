"""The documents that `evals.bits_per_byte` scores, cut from files.

Rules
    A source is a text file; a folder, whose files that match ``glob`` are taken; a ``.jsonl`` or ``.jsonl.gz`` file,
    where the ``field`` of each line is a text; or one of two sources that come with Python: *stdlib*, the modules of
    the standard library, and *pydoc*, the chapters of the language reference (English).
    A document is the beginning of a text, cut at a character. Documents of a source are taken in a seeded order up to a
    number of bytes; the last one is cut to fit. The order does not depend on how many are taken.
    Empty texts, texts that are not UTF-8 and repeated texts are left out and counted.

Does not
    Know what a model has seen in training: choose the files accordingly.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from evals.report.errors import DataError

PACKAGED: Final = ("stdlib", "pydoc")


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is scored by itself.

    Attributes:
        source: The name of its source.
        id: Its name within the source.
        text: Its bytes, UTF-8.
    """

    source: str
    id: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of some sources.

    Attributes:
        taken: In the order in which they are scored: the sources in turn.
        left_out: For each source, how many texts are empty, not UTF-8, or repeated.
    """

    taken: tuple[Document, ...]
    left_out: dict[str, int]

    def sha256(self) -> str:
        """The sum over all documents."""
        digest = hashlib.sha256()
        for document in self.taken:
            digest.update(f"{document.source}\0{document.id}\0{len(document.text)}\0".encode() + document.text)
        return digest.hexdigest()


def read_documents(
    sources: Sequence[str],
    *,
    most_bytes: int,
    document_bytes: int,
    field: str | None = None,
    glob: str = "*.py",
    seed: int = 0,
) -> Documents:
    """Take documents from some sources.

    Args:
        sources: See the head of this module.
        most_bytes: Of each source.
        document_bytes: Of each document, at most.
        field: Of a ``.jsonl`` file's lines.
        glob: Of a folder's files.
        seed: Of the order.

    Raises:
        DataError: A source is not there, cannot be read, or has no text.
    """
    taken: list[list[Document]] = []
    left_out: dict[str, int] = {}
    for given in sources:
        name = given if given in PACKAGED else Path(given).resolve().name
        if name in left_out:
            raise DataError(f"two sources are called {name!r}: name each only once; name a folder instead of its files")
        own, seen, left_out[name], room = [], set[bytes](), 0, most_bytes
        texts = list(_packaged(given) if given in PACKAGED else _texts(Path(given), field, glob))
        random.Random(f"{seed}/{name}").shuffle(texts)
        for place, raw in texts:
            text = _beginning(raw, document_bytes)
            if not text or text in seen:
                left_out[name] += 1
                continue
            seen.add(text)
            if text := _beginning(text, room):
                own.append(Document(name, place, text))
                room -= len(text)
        if not own:
            raise DataError(f"{given} holds no document: no UTF-8 text of at least one character")
        taken.append(own)
    return Documents(tuple(document for own in taken for document in own), left_out)


def _beginning(text: bytes, size: int) -> bytes:
    """The first bytes of a text, up to the end of a character; nothing if they are not UTF-8."""
    part = text[:size]
    try:
        part.decode()
    except UnicodeDecodeError as error:
        whole = error.reason == "unexpected end of data" and len(text) > size
        return part[: error.start] if whole else b""
    return part


def _packaged(name: str) -> Iterator[tuple[str, bytes]]:
    if name == "pydoc":
        topics: Any = import_module("pydoc_data.topics")
        yield from ((topic, text.encode()) for topic, text in sorted(topics.topics.items()))
    else:
        root = Path(sysconfig.get_path("stdlib"))
        yield from ((path.name, path.read_bytes()) for path in sorted(root.glob("*.py")))


def _texts(path: Path, field: str | None, glob: str) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob(glob) if file.is_file())
            yield from ((file.relative_to(path).as_posix(), file.read_bytes()) for file in files)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _lines(path, field)
        else:
            yield path.name, path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; name files, folders, {' or '.join(PACKAGED)}") from error


def _lines(path: Path, field: str | None) -> Iterator[tuple[str, bytes]]:
    if field is None:
        raise DataError(f"{path} holds many texts: name the field with the text by --field")
    raw = path.read_bytes()
    for number, line in enumerate((gzip.decompress(raw) if path.suffix == ".gz" else raw).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"line {number} of {path} is not a JSON object with the field {field!r}: {error!r}"
            ) from error
        if not isinstance(text, str):
            raise DataError(f"line {number} of {path}: the entry {field!r} is not a text: {text!r:.60}")
        yield str(number), text.encode("utf-8", "surrogatepass")
