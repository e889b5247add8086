"""Text that tries tokenizers, written for this project: code, prose, white space, scripts, emoji, bytes.

Rules
    Every snippet is ours or generated from a seed. A document is a few fragments of one or more kinds put end to end,
    from any starting point, so that kinds meet; its prefixes are what is tried, every cut inside a character among
    them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from bytelm.symbols import is_continuation

# fmt: off
CODE = {
    "python": [
        "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n\n\nprint(fibonacci(30))\n",
        "class Node:\n\t'''A node.'''\n\tdef __init__(self, k=None, *args, **kw):\n\t\tself._k = k\n\n\n    @property\n",
        "x = {'a': [1_000, 0xFF, 1e-9], \"b\": f'{y!r:>10}'}\nif x['a'][0] >= 10 and not y:  # TODO(me): don't\n    pass\n",
    ],
    "c": ['#include <stdio.h>\n\nint main(void)\n{\n\tfor (int i = 0; i < 10; ++i)\n\t\tprintf("%d\\n", a[i]);\n\treturn 0;\n}\n',
        "static inline uint32_t rotl(uint32_t x, int k) { return (x << k) | (x >> (32 - k)); } /* I'd */\r\n\r\n"],
    "javascript": ["const f = async (url) => {\n  const r = await fetch(`${url}?q=${encodeURIComponent(q)}`);\n  return r.json();\n};\n",
        "if(a!==b&&!c){d=a?.[0]??'it\\'s';}else{throw new Error(\"can't\")}//x"],
    "rust": ["impl<'a, T: Iterator<Item = &'a str>> Foo<'a, T> {\n    pub fn new(t: T) -> Self {\n        Self { t }\n    }\n}\n",
        "let v: Vec<_> = (0..100).filter(|i| i % 3 == 0).collect();\nmatch c { 'a'..='z' => {}, '\\'' => (), _ => todo!() }\n"],
    "java": ['public class HelloWorld {\n    public static void main(String[] args) {\n        System.out.println("Hello");\n    }\n}\n',
        "    @Override\n    public int hashCode() { return 31 * x + (y == null ? 0 : y.hashCode()); }\n\n\n"],
    "go": ["package main\n\nfunc main() {\n\tch := make(chan int, 10)\n\tif err := run(ch); err != nil {\n\t\tlog.Fatal(err)\n\t}\n}\n"],
    "html": ['<!DOCTYPE html>\n<div class="a b" id=\'c\'>\n  <p>A &amp; B&nbsp;&#39;s</p>\n</div>\n\n<br/>   <a href="http://x.y/z?a=1&b=2">'],
    "sql": ["SELECT a.id, COUNT(*) AS n\nFROM t1 a\nLEFT JOIN t2 b ON a.id=b.id\nWHERE b.x IS NULL AND a.s LIKE '%it''s%'\nGROUP BY 1;\n"],
    "shell": ['#!/bin/sh\nset -eu\nfor f in *.txt; do\n  [ -f "$f" ] || continue\n  sed -e \'s/a/b/g\' < "$f" > "${f%.txt}.out" 2>&1\ndone\n'],
    "haskell": ["module Main where\n\nimport qualified Data.Map as M\n\nfoldr' f z (x:xs) = f x $! foldr' f z xs -- strict'\n  where y' = z\n"],
    "json": ['{\n  "a": [1, 2.50, -3e+10, true, null],\n  "b": {"c\\u00e9": "it\'s"},\n    "dd": []\n}\n'],
    "lisp": ["(define (fact n)\n  (if (= n 0) 1 (* n (fact (- n 1)))))\n;; it's 'quoted `(a ,b ,@c)\n"],
}
# fmt: on
PROSE = [
    "# Title\n\n* item one\n* item **two**\n  1. nested\n\n```python\nprint('hi')\n```\n\n| a | b |\n|---|--:|\n| 1 | 22 |\n",
    "The quick brown fox jumps over the lazy dog. It costs $1,234.56 (about €1.100,00), i.e. 12% more than in 1999!\n",
    "Mr. O'Neill-Smith said: \"Well... that's what I'd've done,\" and left—quickly—for the café at 5:30 p.m.\n\nThen?\n",
    "HelloWorld helloWorld HTTPServer iPhone McDonald's XMLHttpRequest snake_case SCREAMING_CASE kebab-case camelCaseABC\n",
    "antidisestablishmentarianism zzzzzzzzzzzzzz aaaaaaaaaaaaaaaa qwxzjvkq internationalization ........ ======== ---- !!!???",
    "https://example.org/a/b?c=d&e=f%20g#h user@example.com C:\\Users\\me\\file.txt /usr/local/lib/../bin ~/.config\n",
    '- [ ] todo\n- [x] done\n\n> quote\n> more\n\n***\n\n<!-- comment -->\n\n[link](http://x.y "t") ![i](a.png)\n\n\n\n',
    "\\begin{align}\n  \\frac{a_1}{b^2} &= \\sum_{i=0}^{n} x_i \\\\\n\\end{align}\n$\\alpha \\to \\beta$ ≤ ≥ ∑ ∫ √2 ± 5 × 3 ÷ ½ x² H₂O\n",
]
SPACES = [" ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "\f", "\v", "\x1c", "\u0085", "\u00a0", "\u2028", "\u2029", "\u3000", "\u1680", "\u2003", "\u200b", "\u202f", "        ", "                ", "\n    ", "\n\t\t", " \n", " \r\n ", "\u180e"]  # fmt: skip
WORDS = ["a", "I", "the", "don", "we", "x", "=", "self", "print", "é", "I'm", "1", "(", ")", ".", "'", "_", "日", "Ab", "AB"]  # fmt: skip
CONTRACTIONS = [
    f"{word}{mark}{tail}"
    for word in ("I", "we", "DON", "x=", " ", "", "1", "(", "é", "it", "日", "\n", "_", "'")
    for mark in ("'", "’", "''")
    for tail in ("s", "S", "t", "T", "re", "RE", "Re", "rE", "ve", "VE", "m", "M", "ll", "LL", "Ll", "d", "D", "r", "l", "v", "mega", "ſ", "\u212a", "es", "ren", "lla", "Tx", "ß", "'t", "1")
]  # fmt: skip
DIGITS = ["1234567890", "007", "3.14159", "1,000,000", "0xDEADBEEF", "٠١٢٣٤٥٦", "१२३४५६७", "০১২৩৪৫", "๐๑๒๓๔๕", "０１２３４", "𝟘𝟙𝟚𝟛𝟜", "½¾²³¹", "ⅧⅨⅩ", "一二三", "12٣٤56", "1a2b3", "1 2  3", "10²", "2024-01-31T12:59:60Z", "+1 (555) 010-9999"]  # fmt: skip
SCRIPTS = [
    "今日は天気がいいですね。カタカナとひらがな、漢字123個。ー々〆ヶ",
    "你好，世界！这是一个测试：“引号”、《书名》。龘靐齉𠀀𠮷",
    "안녕하세요 세계! 한국어 띄어쓰기가 있습니다.ㄱㄴㄷ",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง กำลังน้ำ ๒๕๖๗",
    "আমার সোনার বাংলা, আমি তোমায় ভালোবাসি। ক্ষুদ্র ড়ঢ়য়",
    "مرحبا بالعالم! اَلْعَرَبِيَّةُ ١٢٣ لا إله؟ ـــ",
    "שלום עולם, שָׁלוֹם ״ציטוט״",
    "नमस्ते दुनिया। क्षत्रिय ज्ञान हिन्दी १२३ क़",
    "Привет, мир! Ёлка и съёмка — «кавычки» №5",
    "Γειά σου Κόσμε ΆΈΉ ὀξύς ᾳᾼ",
    "Đây là tiếng Việt: Nguyễn, đường, ở đâu? Ça va, œuvre, naïve, Straße, İstanbul ıŞ",
    "ᏣᎳᎩ ᐃᓄᒃ ꦗꦮ ⴰⵎⴰⵣⵉⵖ ქართული Ქ Հայերեն አማርኛ ភាសាខ្មែរ မြန်မာ བོད་ཡིག",
    "𐌰𐍄𐍄𐌰 𝓗𝓮𝓵𝓵𝓸 𝔘𝔫𝔦 𐐀𐐨 𒀀𒁀 ㍿㌔ ﷺ ﬁﬂﬃ ǅǆǄ ʰʲ ªº",
]
EMOJI = ["😀😃🙏", "👨‍👩‍👧‍👦", "👩🏽‍💻", "🏳️‍🌈", "🇩🇪🇫🇷🇯", "❤️❤", "1️⃣#️⃣", "☕︎☕️", "🧑‍🚀🪐", "✨a✨ b", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "™®©", "→⇒⟶", "░▒▓█", "①②③", "🤷🏿‍♀️!"]  # fmt: skip
COMBINING = ["e\u0301", "a\u0308\u0304", "n\u0303o\u0301", "\u0301x", " \u0301", "q\u0323\u0307", "Z\u0351\u036b\u0343", "\u1112\u1161\u11ab", "क\u093c", "ก\u0e33", "A\u030a", "\u212b", "\u0344", "1\u20e3", "\u0958", "x\u0338=", "é\u0323", "o\u0302\u0323", "가\u11a8", "'\u0301s", "\n\u0301"]  # fmt: skip
ODD = ["\x00", "\x00\x00a", "\x01\x02\x7f", "\ufeff", "\ufeffabc", "a\ufeffb", "\ue000\uf8ff", "\U000f0000", "\U0010fffd", "\uffff", "\ufdd0", "\ufffd", "a\u0000b", "\u202e\u202dabc", "\u061c", "\u00ad", "\x1b[0m", "\x08\x08", "\u2060\u200d\u200c", "▁", "a▁b", "Ġ", "Ċ", "Ġa", "<0x0A>", "<0xE2>", "##ing", "</w>"]  # fmt: skip
SENTINELS = ["<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_start|>user\n", "<|fim_prefix|>", "<fim_middle>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>", "<think>", "</think>", "<tool_call>", "<|", "|>", "<unused7>", "[multimodal]", "<table>", "</h1>", "<｜User｜>", "<｜fim▁hole｜>", "<｜begin▁of▁sentence｜>"]  # fmt: skip

KINDS = ("code", "prose", "spaces", "contractions", "digits", "scripts", "emoji", "combining", "odd", "sentinels", "bytes")  # fmt: skip


# Of some kinds a fragment is a few members, joined by one of these.
_JOINED = {
    "digits": (("", " ", "a", "  ", "-"), DIGITS, 2),
    "emoji": (("", " ", "a"), EMOJI, 3),
    "combining": (("", " ", "a"), COMBINING, 4),
    "odd": (("", " ", "a"), ODD, 4),
    "sentinels": (("", " ", "\n", "x"), SENTINELS, 3),
}


def fragment(kind: str, rng: random.Random, sentinels: Iterable[str]) -> bytes:
    """A piece of text of one kind, from a random start to a random end."""
    match kind:
        case "code":
            text = rng.choice(rng.choice(list(CODE.values())))
        case "prose" | "scripts":
            text = rng.choice(PROSE if kind == "prose" else SCRIPTS)
        case "spaces":
            mixed = (*SPACES, *SPACES[:16], *WORDS)
            text = "".join(mixed[rng.randrange(len(mixed))] for _ in range(12))
        case "contractions":
            text = (" " if rng.random() < 0.5 else "").join(rng.sample(CONTRACTIONS, 3))
        case "bytes":
            return _some_bytes(rng)
        case _:
            joins, pool, count = _JOINED[kind]
            text = rng.choice(joins).join(rng.sample([*pool, *(sentinels if kind == "sentinels" else ())], count))
            if kind == "digits" and rng.random() < 0.3:
                text = "".join(rng.choices("0123456789", k=rng.randint(1, 12))) + text
    start = rng.randrange(len(text)) if rng.random() < 0.7 else 0
    return text[start : start + rng.randint(1, 40)].encode()


def _some_bytes(rng: random.Random) -> bytes:
    shape = rng.random()
    if shape < 0.4:
        return rng.randbytes(rng.randint(1, 12))
    if shape < 0.7:
        return "".join(chr(rng.choice(_ASSIGNED)) for _ in range(rng.randint(1, 8))).encode()
    return bytes(rng.choice(b"aA1 \n'.\xc3\xa9\xe2\x80\xa8\xe6\x97\xf0\x9f\x98") for _ in range(rng.randint(1, 16)))


_ASSIGNED = [*range(0x20, 0x250), *range(0x370, 0x600), *range(0x900, 0xA00), *range(0x2000, 0x2070), *range(0x3000, 0x3100), *range(0x4E00, 0x4E80), *range(0x1F300, 0x1F650)]  # fmt: skip


def documents(seed: int, sentinels: Iterable[str] = (), *, longest: int = 64) -> Iterator[bytes]:
    """Documents without end, each of one to four fragments; one in twenty is several hundred bytes long.

    Args:
        seed: The same seed gives the same documents.
        sentinels: The contents of the tokenizer's own added tokens, spelled out as text.
        longest: Bytes of an ordinary document.
    """
    rng = random.Random(seed)
    sentinels = sorted(sentinels)
    while True:
        long = rng.random() < 0.05
        pieces = [fragment(rng.choice(KINDS), rng, sentinels) for _ in range(rng.randint(1, 4) + 16 * long)]
        if rng.random() < 0.5:
            pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(SPACES).encode() * rng.randint(1, 3))
        data = b"".join(pieces)
        yield data if long else data[:longest]


def prefixes(document: bytes, rng: random.Random, *, share: float = 0.4) -> list[int]:
    """The lengths of the prefixes to try: every cut inside a character, the whole, and a share of the rest."""
    lengths = []
    for n in range(len(document) + 1):
        inside = n < len(document) and is_continuation(document[n])
        if inside or n == len(document) or rng.random() < share:
            lengths.append(n)
    return lengths
