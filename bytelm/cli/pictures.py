"""The pictures of the commands: what a model says of a text, made into the values that a document draws.

Rules
    A picture's file is looked at before a model runs, and written whole (pictures/whole_file.py). A path of - is
    standard output: then the document is all that is printed.
    A picture of a long text shows its end where each place costs a tree (`STEPS`), and says so.

Does not
    Draw: that is the browser's (bytelm/pictures/page), and matplotlib's (plot.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from bytelm.byte_lm.canonical import canonical_tokens
from bytelm.byte_lm.model import ByteLM
from bytelm.cli.sweep import CURSORS, sweep_of
from bytelm.cli.tables import show_byte
from bytelm.cover.cover_cache import CoverCache
from bytelm.cover.prefix import Prefix
from bytelm.inference.cover_list import BRANCHES, branch, left_out, token_texts
from bytelm.inference.cover_walk import CoverView, cover_views, share
from bytelm.inference.rows import RowReader
from bytelm.inference.scheduler import on
from bytelm.inference.text_scoring import entropies_and_leaks
from bytelm.pictures.document import Section, document
from bytelm.pictures.values import Branch, CoverWalk, Place, Strip, Token, TreeStep, shown_text

HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="PATH", help="Write pictures as one HTML file that fetches nothing; - is standard output."
    ),
]
LIKELIEST: Final = 6  # bytes that are shown at a place
STEPS: Final = 200  # bytes at the end of a text whose covers are shown
DEAD: Final = 3  # of each kind
LEAST: Final = 1e-4  # share of the mass from which dead branches are shown

STRIP_NOTE: Final = (
    "Above, each token with its own surprisal; below, each byte with its exact one. Point at a byte, or use the arrow "
    "keys, for the likeliest bytes there."
)
WALK_NOTE: Final = (
    "Each path is a token sequence that spells the text up to the cursor. Its bar is its share. Dead branches are "
    "grey: tokens that no text has there, and what the last byte ruled out. The slider moves the cursor."
)
SWEEP_NOTE: Final = (
    "The surprisal of a word when the prompt ends inside it. By bytes it is the same at each cursor of the word. By "
    "tokens it jumps where the cursor cuts a token."
)
DRIVEN_NOTE: Final = "Each byte has the colour of the member that drove it, under the weights of the members there."


def strip_of(lm: ByteLM, text: bytes, *, prefix: Prefix = b"", stride: int | None = None) -> Strip:
    """A text's surprisal by tokens and by bytes.

    Args:
        lm: The model.
        text: The text.
        prefix: The text before it.
        stride: As for `ByteLM.logprob`. Tokens are shown of a text that fits in the context.
    """
    prompt, data = lm.prompt(prefix), lm.bytes_of(text)
    rows = lm.next_byte_rows(data, prefix=prefix, stride=stride, progress=True)[:-1]
    entropies, leaks = entropies_and_leaks(rows)
    likeliest = np.argsort(-rows, axis=1, kind="stable")[:, :LIKELIEST]
    places = [
        Place(float(row[byte]), [(int(i), float(row[i])) for i in top if row[i] > -np.inf], float(leak), float(entropy))
        for byte, row, top, leak, entropy in zip(data, rows, likeliest, leaks, entropies, strict=True)
    ]
    found = lm.answer(canonical_tokens(lm, prompt, data), progress=True)
    if found is None:
        return Strip(data, places)
    return Strip(data, places, [Token(shown_text(each.bytes), each.start, each.end, each.logprob) for each in found])


def walk_of(lm: ByteLM, text: bytes) -> CoverWalk:
    """The covers along a text, or along the end of a long one."""
    prompt = lm.prompt(text)
    data = prompt.text
    first = max(len(data) - STEPS, 0)
    covers = [CoverCache(lm.viability).cover(prompt.cut(first))]
    for byte in data[first:]:
        covers.append(covers[-1].advance(bytes([byte])))
    reader = RowReader(lm.viability.prefix_index, vocab_size=lm.token_lm.vocab_size, eot_ids=lm.eot_ids)
    step = cover_views(covers, context=prompt.context, reader=reader, top=BRANCHES)
    views = lm.answer(on(lm.token_lm, step), progress=True)
    hidden = len(lm.viability.vocab.dummy_prefix) if prompt.dummy_prefix else 0
    steps = [_step(lm, view, before, hidden) for view, before in zip(views, [None, *views], strict=False)]
    return CoverWalk(data[first:], steps)


def explained(lm: ByteLM, text: bytes) -> str:
    """A document of a text: its covers, its surprisal, and a cursor swept through it."""
    sections = []
    if text:
        part = f" Only the last {STEPS} bytes are gone through." if len(text) > STEPS else ""
        sections.append(Section("The cover, step by step", walk_of(lm, text), WALK_NOTE + part))
        strip = strip_of(lm, text)
        sections.append(Section("Surprisal by tokens and by bytes", strip, STRIP_NOTE))
        sweep = sweep_of(lm, text, [place.logprob for place in strip.places])
        part = f" Only the last {CURSORS} cursors are shown." if len(text) > CURSORS else ""
        sections.append(Section("A cursor through the text", sweep, SWEEP_NOTE + part))
    else:
        sections.append(Section("The cover", walk_of(lm, text), WALK_NOTE))
    return document("bytelm explain", sections)


def _step(lm: ByteLM, view: CoverView, before: CoverView | None, hidden_space: int) -> TreeStep:
    """One cover, with what died in it."""
    size = len(view.prefix) + hidden_space
    dead: list[tuple[tuple[int, ...], float, str]] = []  # a sequence, its share, and why
    for each in view.unreachable[: DEAD if view.prefix else 0]:
        if (part := share(each.logprob, view.logprob)) >= LEAST:
            dead.append(((*each.token_ids, -1), part, f"{count(each.tokens)} that no text has here"))
    if before is not None:
        last = view.prefix[-1:]
        out = [item for item in before.items if lm.spell(item.token_ids)[size - 1 : size] not in (b"", last)]
        for item in out[:DEAD]:
            if (part := share(item.logprob, before.logprob)) >= LEAST:
                dead.append((item.token_ids, part, f"ruled out by {show_byte(last[0])}"))
    live = [(item.token_ids, share(item.logprob, view.logprob)) for item in view.items]
    hidden = left_out([*(ids for ids, _ in live), *(ids for ids, _, _ in dead)])
    shown: list[Branch] = []
    gone = [Branch(ids[hidden:], token_texts(ids[hidden:], lm.spell), part, why=why) for ids, part, why in dead]
    for ids, part in live:
        why = None if part > 0 or not view.prefix else "the model gives it nothing"
        (shown if why is None else gone).append(branch(ids, part, spell=lm.spell, size=size, left=hidden, why=why))
    return TreeStep(view.logprob, shown, gone, hidden, view.others)


def count(tokens: int) -> str:
    """So many tokens, in words."""
    return f"{tokens} token{'' if tokens == 1 else 's'}"
