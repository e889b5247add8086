r"""Where llama.cpp splits text before the merges, by the name that a GGUF file has for it (``tokenizer.ggml.pre``).

Rules
    The steps say what llama.cpp does, which is not always what the model's publisher does. Each is a step of a
    tokenizer.json; the next works on every part by itself. A name that is not here is refused.

Where llama.cpp differs from the published patterns
    Case is known of ASCII letters alone. Others count as both (`_EITHER_CASE`: tekken, gpt-4o), or no letter has a case
    (`_CASELESS`: tiny_aya, youtu).
    Digits in threes from the right (afmoe, tiny_aya) are found with all that is before them: that text and the first
    digits are one part, which the next step splits.
    White space beyond ASCII is not in any range of characters: the range from U+3000 lacks U+3000.
    ``$`` is the end of a part, and never before a final line end.
    Its tables are those of Unicode 15: what Unicode 16 added is in no class for llama.cpp, and in one for us.

Source
    ``llm_tokenizer_bpe`` in llama.cpp's src/llama-vocab.cpp, and src/unicode.cpp, of version 0.3.36 of
    llama-cpp-python. tests/engines/llama_cpp/test_pre_tokenizers.py compares every name with llama.cpp itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

GPT2_BYTES: Final = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_BYTES: Final = {**GPT2_BYTES, "use_regex": False}
_DIGITS: Final = {"type": "Digits", "individual_digits": True}


def _split(*patterns: str) -> list[dict[str, Any]]:
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]


def _ranges(codes: str) -> str:
    """Ranges of code points in hexadecimal as what goes between the brackets of a class."""
    ends = (code.split("-") for code in codes.split())
    return "".join("-".join(re.escape(chr(int(end, 16))) for end in pair) for pair in ends)


def _byte_level(*patterns: str) -> list[dict[str, Any]]:
    return [*_split(*patterns), _BYTES]


_SHORT: Final = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"  # contractions
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHERS: Final = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_WORD: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_OTHERS}"
_QWEN2: Final = rf"{_SHORT}|{_WORD}|\p{{N}}|{_OTHERS}"

# Words in which upper case comes before lower case, of letters alone or with marks.
_EITHER_CASE: Final = (r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]")
_EITHER_CASE_OR_MARK: Final = (r"[[\p{L}\p{M}]&&[^a-z]]", r"[[\p{L}\p{M}]&&[^A-Z]]")
_CASELESS: Final = (r"[\p{L}\p{M}]",) * 2


def _cased(case: tuple[str, str], number: str, ending: str = _SHORT + "?") -> str:
    upper, lower = case
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}"
    return rf"{words}|{number}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


_THREE: Final = r"\p{N}{1,3}"
_DIGITS_FROM_THE_RIGHT: Final = r"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_LINES: Final = r"[^\n]+|\n+"
_PUNCTUATION: Final = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK: Final = rf"{_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+"
_CHINESE_OR_KANA: Final = f"[{_ranges('4E00-9FA5 3040-309F 30A0-30FF')}]+"
_DEEPSEEK3: Final = (_THREE, _CHINESE_OR_KANA, rf"{_DEEPSEEK}[\r\n]*|{_SPACES}")
_CJK: Final = rf"[{_ranges('4E00-9FA5 800-4E00 AC00-D7FF')}&&\S]+"
_CASED_LETTERS: Final = _ranges(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_WIDE_PUNCTUATION: Final = _ranges("21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3001-3002")
_HAN: Final = _ranges(
    "3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B73F 2B740-2B81F 2B820-2CEAF 2CEB0-2EBEF 2F800-2FA1F"
)
_KIMI: Final = rf"[{_HAN}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}&&[^{_HAN}]]+{_SHORT}?|{_THREE}|{_OTHERS}"
_BLOOM: Final = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_JAIS2: Final = (
    rf"{_SHORT}|{_WORD}|{_THREE}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
    + "".join(rf"\s{{{2**n}}}(?!\S)|" for n in range(9, 1, -1))
    + r"\s{1,2}(?!\S)|\s{1}"
)
_AFMOE_SCRIPTS: Final = _ranges(
    "4E00-9FFF 3400-4DBF 8C48-FAFF 3040-309F 30A0-30FF FF65-FF9F 2F00-2FDF E40-E7F E80-EFF 1780-17FF 1000-109F "
    "AA60-AA7F A9E0-A9FF AC00-D7AF 1100-11FF"
)
_YOUTU_SCRIPTS: Final = "|".join(
    f"[{_ranges(ranges)}]+"
    for ranges in (
        *("AC00-D7A3 3131-318E", "FF01 2026 201C 201D 2018 2019 2014 FF1A FF1B FF0C 3001-303F FE30-FE4F"),
        *("3105-312F", "4E00-9FA5 3040-309F 30A0-30FF"),
    )
)

_LLAMA3_NAMES: Final = "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"
_NAMES: Final = (
    ("gpt-2 phi-2 mpt olmo jais exaone4 trillion granite-docling gigachat a.x-4.0 mellum modern-bert", [GPT2_BYTES]),
    ("jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe", [GPT2_BYTES]),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", [_DIGITS, GPT2_BYTES]),
    (_LLAMA3_NAMES + " dbrx smaug-bpe glm4 glm5 chatglm-bpe", _byte_level(_LLAMA3)),
    (
        "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan grok-2 solar-open",
        _byte_level(_QWEN2),
    ),
    ("qwen35", _byte_level(_QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"))),
    ("ufakzeka", _byte_level(rf"{_WORD}|\p{{N}}|{_OTHERS}")),
    ("laguna", _byte_level(_LINES, _QWEN2)),
    ("seed-coder", _byte_level(rf"{_SHORT}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}")),
    (
        "bailingmoe bailingmoe2 llada-moe",
        _byte_level(_QWEN2.replace(r"\s*[\r\n]+|", r"\s*[\r\n]|")),
    ),
    (
        "exaone-moe",
        _byte_level(
            rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
    ),
    ("minicpm5", _byte_level(_THREE, rf"{_SHORT}|{_WORD}|\p{{N}}+|{_OTHERS}")),
    ("jais-2", _byte_level(_JAIS2)),
    ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", _byte_level(*_DEEPSEEK3)),
    ("spark2_5", _byte_level(*_DEEPSEEK3[:2], rf"{_DEEPSEEK}|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")),
    ("afmoe", _byte_level(_DIGITS_FROM_THE_RIGHT, f"[{_AFMOE_SCRIPTS}]+", _DEEPSEEK3[2])),
    ("deepseek-coder", _byte_level(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    (
        "deepseek-llm",
        _byte_level(*(r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", rf"\s?[{_WIDE_PUNCTUATION}]+", r"\s+\z", _CJK, r"\p{N}+")),
    ),
    ("falcon", _byte_level(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("default", _byte_level(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    ("tekken", _byte_level(_cased(_EITHER_CASE, r"\p{N}", ""))),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", _byte_level(_cased(_EITHER_CASE, _THREE))),
    ("granite-embed-multi-97m", _byte_level(_cased(_EITHER_CASE_OR_MARK, _THREE))),
    ("tiny_aya cohere2moe", _byte_level(_DIGITS_FROM_THE_RIGHT, _cased(_CASELESS, _THREE))),
    ("youtu", _byte_level(_YOUTU_SCRIPTS, _cased(_CASELESS, r"\p{N}"))),
    ("kimi-k2", _byte_level(_KIMI)),
    ("superbpe", _byte_level(r"\p{N}+", r"[\s\S](?:(?!(?:[0-9]{3})+(?![0-9]))[\s\S])*")),
    ("bloom poro-chat gpt3-finnish", _byte_level(_BLOOM)),
    ("viking", _byte_level(_BLOOM, r"\p{N}")),
    (
        "chameleon",
        _byte_level(
            *("<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\t\n]|    |  ", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", _GPT2)
        ),
    ),
)
# The steps of byte-level BPE, which end with ByteLevel.
STEPS: Final[Mapping[str, list[dict[str, Any]]]] = {name: steps for names, steps in _NAMES for name in names.split()}
# A pre-token that is in the vocabulary is taken whole.
IGNORE_MERGES: Final = frozenset(f"{_LLAMA3_NAMES} tekken youtu minicpm5 granite-embed-multi-97m glm4 glm5".split())
# BPE over characters, line by line; of the first two a run of line ends that is in the vocabulary is taken whole.
WHOLE_LINE_ENDS: Final = frozenset({"gemma4", "granite-embed-multi-311m"})
BY_LINE: Final = WHOLE_LINE_ENDS | {"sarvam-moe"}


def line_steps(whole: int) -> list[dict[str, Any]]:
    """The steps of BPE over characters.

    Args:
        whole: The longest run of line ends that stays in one part; longer ones are split into single line ends. 0: all.
    """
    return _split(rf"[^\n]+|(?<!\n)\n{{1,{whole}}}(?!\n)|\n" if whole else _LINES)
