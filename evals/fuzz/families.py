"""Random tokenizers, family by family: all that the tokenizers library offers and docs/tokenizers.md calls exact.

Rules
    A case is a function of its family, the seed and its number. Vocabularies are tiny, so that every rule is met often.
    *Partial* vocabularies hold a few bytes alone: what else a text holds, the tokenizer loses, and no such text is
    canonical. Byte fallback has all bytes, and so has a part of the byte-level cases.
    What the tokenizers library itself does not build is not a case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from evals.fuzz import characters
from evals.fuzz.case import BYTES, Case
from evals.fuzz.patterns import pattern

Spec = dict[str, Any]

BEHAVIORS: Final = ("Isolated", "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
UNKNOWN: Final = "<unk>"
LONG: Final = 3000  # characters of a long run
LONG_EVERY: Final = 50  # one case of so many has a long run


def drawn(family: str, seed: int, number: int) -> Case:
    """Case ``number`` of a family."""
    rng = Random(f"{seed} {family} {number}")
    case = FAMILIES[family](rng, family)
    long = number % LONG_EVERY == LONG_EVERY - 1
    return _with_prefixes(rng, case, long=long)


def _with_prefixes(rng: Random, case: Case, *, long: bool, count: int = 40) -> Case:
    """The case with what is asked about: byte prefixes of short texts, texts of any bytes, and now and then a long run."""
    own, every = case.alphabet, [*case.alphabet, *case.goings]
    found: dict[bytes, None] = {b"": None}
    for _ in range(2 * count):
        if len(found) >= count - 6:
            break
        text = "".join(rng.choices(own if rng.random() < 0.8 else every, k=rng.randint(1, 6)))
        if case.added and rng.random() < 0.25:
            content = rng.choice(case.added)["content"].replace("▁", " ")
            text = text[:2] + content + text[2:4]
        data = text.encode()
        found[data[: rng.randint(1, len(data))] if rng.random() < 0.4 else data] = None
    for _ in range(3):
        found["".join(rng.choices(every, k=rng.randint(7, 14))).encode()] = None
        found["".join(rng.choices(own, k=rng.randint(0, 3))).encode() + rng.choice(characters.NO_TEXT)] = None
    if long:
        found[(rng.choice(own) * LONG).encode()] = None
    return Case(
        case.family,
        case.spec,
        case.added,
        case.filled,
        case.alphabet,
        case.goings,
        [prefix.decode("latin-1") for prefix in found],
    )


# ---- vocabularies


def vocabulary(
    rng: Random, base: Sequence[str], *, most: int = 9, longest: int = 5
) -> tuple[list[str], list[list[str]]]:
    """Pieces and merges over base pieces: a trainer's, tiktoken's (every split of a piece), or in no sensible order."""
    pieces, merges = list(base), []
    for _ in range(rng.randint(0, most)):
        left, right = rng.choice(pieces), rng.choice(pieces)
        if len(left + right) <= longest and [left, right] not in merges:
            merges.append([left, right])
            if left + right not in pieces:
                pieces.append(left + right)
    order = rng.random()
    if order < 0.3:
        known = set(pieces)
        merges = [[p[:k], p[k:]] for p in pieces for k in range(1, len(p)) if p[:k] in known and p[k:] in known]
    elif order < 0.5:
        rng.shuffle(merges)
    for _ in range(rng.choice((0, 0, 1, 2))):  # pieces that no merge makes
        piece = "".join(rng.choices(base, k=rng.randint(2, longest)))
        if piece not in pieces:
            pieces.append(piece)
    return pieces, merges


def _ids(rng: Random, pieces: Sequence[str], *, holes: bool) -> dict[str, int]:
    numbers = list(range(len(pieces) + (rng.randint(0, 3) if holes else 0)))
    if rng.random() < 0.5:
        rng.shuffle(numbers)
    return dict(zip(pieces, numbers, strict=False))


def _model(vocab: dict[str, int], merges: list[list[str]], **more: Any) -> Spec:
    return {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": False} | more


def _spec(model: Spec, *, normalizer: list[Spec] | None = None, pre: list[Spec] | None = None, decoder: Spec) -> Spec:
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizer} if normalizer else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre} if pre else None,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


# ---- steps


def split(rng: Random, alphabet: Sequence[str]) -> Spec:
    """A Split step, by a pattern or by a literal."""
    literal = rng.random() < 0.15
    return {
        "type": "Split",
        "pattern": {"String": rng.choice(alphabet)} if literal else {"Regex": pattern(rng, alphabet)},
        "behavior": rng.choice(BEHAVIORS),
        "invert": rng.random() < 0.2,
    }


def cuts(rng: Random, alphabet: Sequence[str], *, most: int, after_bytes: bool = False) -> list[Spec]:
    """Steps that cut the text."""
    found: list[Spec] = []
    for _ in range(rng.randint(0, most)):
        kind = rng.random()
        if kind < 0.1:
            found.append({"type": "Digits", "individual_digits": rng.random() < 0.5})
        elif kind < 0.2:
            found.append({"type": "Punctuation", "behavior": rng.choice(BEHAVIORS)})
        elif (after_bytes and kind < 0.4) or kind < 0.22:
            found.append({"type": rng.choice(("Whitespace", "WhitespaceSplit", "BertPreTokenizer"))})
        else:
            found.append(split(rng, alphabet))
    return found


def byte_level(rng: Random, *, space: bool = False) -> Spec:
    """The ByteLevel step."""
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": rng.random() < 0.25}


def added(rng: Random, alphabet: Sequence[str], *, most: int = 3, flags: bool = True) -> list[dict[str, Any]]:
    """Added tokens over a few characters, so that they overlap, with any of their flags."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(rng.randint(1, most)):
        content = "".join(rng.choices(alphabet, k=rng.randint(1, 3)))
        special = rng.random() < 0.2
        found[content] = {
            "content": content,
            "special": special,
            "normalized": rng.random() < 0.5,
            "single_word": flags and rng.random() < 0.25,
            "lstrip": flags and rng.random() < 0.15,
            "rstrip": flags and rng.random() < 0.15,
        }
    return list(found.values())


def _not_pieces(tokens: list[dict[str, Any]], pieces: Sequence[str]) -> list[dict[str, Any]]:
    """Without special tokens that are pieces of single bytes: a corner that docs/tokenizers.md keeps."""
    return [token for token in tokens if not (token["special"] and token["content"] in pieces)]


# ---- families


def _bytes_case(
    rng: Random,
    family: str,
    *,
    full: bool = False,
    alphabet: list[str] | None = None,
    normalizer: list[Spec] | None = None,
    pre: Callable[[list[str]], list[Spec]] = lambda _: [],
    tokens: Callable[[list[str]], list[dict[str, Any]]] = lambda _: [],
    ignore: bool = False,
    space: bool = False,
) -> Case:
    """A byte-level case."""
    own = alphabet or characters.alphabet(rng)
    goings = characters.beyond(rng, own, rng.randint(0, 3))
    data = dict.fromkeys(byte for c in own for byte in c.encode())
    pieces, merges = vocabulary(rng, [BYTES[byte] for byte in data])
    extra = dict.fromkeys(byte for c in [*goings, *(" " if space else "")] for byte in c.encode())
    pieces += [BYTES[byte] for byte in extra if BYTES[byte] not in pieces]
    tokens_ = tokens([*own, *goings[:1]])
    tokens_ = _not_pieces(tokens_, [*pieces, *(BYTES if full else ())])
    if rng.random() < 0.5:  # added tokens may be pieces too
        pieces += [token["content"] for token in tokens_ if token["content"] not in pieces]
    model = _model(_ids(rng, pieces, holes=not tokens_ and not full), merges, ignore_merges=ignore)
    steps = pre(own)
    spec = _spec(
        model, normalizer=normalizer, pre=steps or [byte_level(rng, space=space)], decoder=_decoder("ByteLevel")
    )
    return Case(family, spec, tokens_, "bytes" if full else "", own, goings)


def _decoder(kind: str) -> Spec:
    return {"type": kind, "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _merges(rng: Random, family: str) -> Case:
    return _bytes_case(rng, family, ignore=rng.random() < 0.5)


def _around(rng: Random, own: list[str], *, space: bool = False) -> list[Spec]:
    later = [BYTES[byte] for c in own for byte in c.encode()]
    before = [] if space else cuts(rng, own, most=2)
    return [
        *before,
        byte_level(rng, space=space),
        *(cuts(rng, later, most=2, after_bytes=True) if rng.random() < 0.3 else []),
    ]


def _splits(rng: Random, family: str) -> Case:
    return _bytes_case(rng, family, pre=lambda own: _around(rng, own), ignore=rng.random() < 0.3)


def _all_bytes(rng: Random, family: str) -> Case:
    return _bytes_case(rng, family, full=True, pre=lambda own: _around(rng, own), ignore=rng.random() < 0.3)


def _added_tokens(rng: Random, family: str) -> Case:
    pre = (lambda own: _around(rng, own)) if rng.random() < 0.6 else (lambda _: [])
    return _bytes_case(rng, family, pre=pre, tokens=lambda own: added(rng, own), ignore=rng.random() < 0.2)


def _normal_forms(rng: Random, family: str) -> Case:
    marks = [
        "e\u0301é",
        "a\u0301",
        "a\u0323\u0301",
        "=\u0338",
        "e\u0338\u0301",
        "\u1112\u1161\u11ab",
        "한\u11ab",
        "éa",
        "\u212aK",
        "\u0958a",
        "Åa",
    ]
    own = list(rng.choice(marks)) if rng.random() < 0.7 else None
    form = rng.choice(("NFC", "NFC", "NFD"))
    tokens = (lambda own: added(rng, own, most=2)) if rng.random() < 0.4 else (lambda _: [])
    pre = (lambda own: _around(rng, own)) if rng.random() < 0.5 else (lambda _: [])
    return _bytes_case(
        rng, family, full=rng.random() < 0.1, alphabet=own, normalizer=[{"type": form}], pre=pre, tokens=tokens
    )


def _prefix_space(rng: Random, family: str) -> Case:
    own = list(dict.fromkeys([*characters.alphabet(rng), " "]))
    tokens = (lambda own: added(rng, own)) if rng.random() < 0.4 else (lambda _: [])
    return _bytes_case(rng, family, alphabet=own, space=True, pre=lambda o: _around(rng, o, space=True), tokens=tokens)


def _characters_case(rng: Random, family: str, *, normalizer: list[Spec], pre: list[Spec], strip: bool) -> Case:
    """A case over characters with byte fallback, spaces as ▁."""
    own = list(dict.fromkeys([*(c for c in characters.alphabet(rng) if c != "▁"), " "]))
    goings = [c for c in characters.beyond(rng, own, rng.randint(0, 2)) if c != "▁"]
    marked = [c.replace(" ", "▁") for c in own]
    fallen = [c for c in marked if c != "▁" and rng.random() < 0.25]
    pieces, merges = vocabulary(rng, [c for c in marked if c not in fallen])
    tokens = added(rng, [*own, "▁"], flags=rng.random() < 0.6) if rng.random() < 0.5 else []
    tokens = _not_pieces(tokens, pieces)
    if rng.random() < 0.5:
        pieces += [token["content"] for token in tokens if token["content"] not in pieces]
    flags = {"byte_fallback": True, "fuse_unk": rng.random() < 0.5, "ignore_merges": rng.random() < 0.2}
    model = _model(_ids(rng, [UNKNOWN, *pieces], holes=False), merges, unk_token=UNKNOWN, **flags)
    ends: list[Spec] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else []),
    ]
    spec = _spec(model, normalizer=normalizer, pre=pre, decoder={"type": "Sequence", "decoders": ends})
    return Case(family, spec, tokens, "fallback", own, goings)


REPLACE: Final = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


def _sentencepiece(rng: Random, family: str) -> Case:
    prepend = rng.random() < 0.5
    before = [{"type": "Prepend", "prepend": "▁"}] if prepend else []
    pre: list[Spec] = []
    if rng.random() < 0.4:
        pattern_ = {"String": rng.choice((" ", "▁"))}
        pre = [{"type": "Split", "pattern": pattern_, "behavior": rng.choice(BEHAVIORS), "invert": False}]
    elif rng.random() < 0.3:
        pre = cuts(rng, ["a", "▁", "1", "."], most=1)
    return _characters_case(rng, family, normalizer=[*before, REPLACE], pre=pre, strip=prepend)


def _metaspace(rng: Random, family: str) -> Case:
    scheme = rng.choice(("first", "always", "never"))
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": rng.random() < 0.5}
    later = cuts(rng, ["a", "▁", "1", "."], most=1) if rng.random() < 0.2 else []
    return _characters_case(rng, family, normalizer=[], pre=[step, *later], strip=scheme != "never")


FAMILIES: Final[dict[str, Callable[[Random, str], Case]]] = {
    "merges": _merges,
    "splits": _splits,
    "all-bytes": _all_bytes,
    "added-tokens": _added_tokens,
    "normal-forms": _normal_forms,
    "prefix-space": _prefix_space,
    "sentencepiece": _sentencepiece,
    "metaspace": _metaspace,
}
