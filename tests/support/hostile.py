"""Strings that break tokenizers, and programs that assume things of text; each is tried at every one of its bytes."""

from __future__ import annotations

HOSTILE: dict[str, str] = {
    "code": "def fibonacci(n):\n    ret",
    "blank-lines": "return a + b\n\n\n\nprint(1)",
    "trailing-spaces": "a  \n  b   ",
    "spaces": "x = 1" + " " * 17 + "y",
    "tabs": "\tif x:\n\t\t\treturn\t \t",
    "crlf": "a\r\n\r\n b\r\r\n",
    "odd-space": "a\u0085\u00a0\u2028\u3000\u1680 b\f\v\x1c",
    "contractions": "I'm we'RE x='mega' 'tis DON'T it's's",
    "curly": "I’m we’ll ‘s’",
    "long-s": "'ſ '\u212a 's",
    "digits": "1234567890 12 3,456.78",
    "digits-of-others": "٠١٢٣٤ १२३४ ๑๒๓๔ 𝟘𝟙𝟚",
    "fractions": "½²Ⅷ10²³",
    "camel": "HelloWorldHTTPServer iPhoneX",
    "one-word": "internationalizationalization",
    "no-space": "aaaaaaaaaaaaaaaaaaaaaaaaa",
    "punctuation": "!!!???...---===>>><<<({[]})",
    "markdown": "# T\n\n* a\n  1. b\n```\nx\n```\n",
    "html": '<div class="a b">&nbsp;</div>\n\n',
    "json": '{"a": [1, 2.5e-3, null]}\n',
    "url": "https://x.org/a?b=c&d=%20#e",
    "cjk": "今日は天気がいい。漢字123",
    "chinese": "你好，世界！龘靐",
    "korean": "안녕하세요 세계",
    "thai": "สวัสดีชาวโลก",
    "bengali": "আমার সোনার বাংলা ক্ষুদ্র",
    "arabic": "مرحبا اَلْعَرَبِيَّةُ ١٢٣",
    "hebrew": "שָׁלוֹם עולם",
    "hindi": "क्षत्रिय ज्ञान",
    "vietnamese": "Đường Nguyễn ở đâu?",
    "gothic": "𐌰𐍄𐍄𐌰 𝓗𝓮",
    "emoji": "😀 👨‍👩‍👧 🏳️‍🌈 🇩🇪 1️⃣",
    "skin": "👩🏽‍💻🤷🏿‍♀️",
    "zero-width": "a\u200bb\u200cc\u200dd\u2060",
    "nul": "\x00a\x00\x00b",
    "control": "\x01\x02\x1b[0m\x7f",
    "bom": "\ufeffabc\ufeff",
    "private": "\ue000\uf8ff\U000f0000",
    "last": "\uffff\ufffd\U0010ffff",
    "bidi": "\u202eabc\u202c",
    "sentinels": "<|endoftext|><s></s>[INST]<|im_start|>",
    "fim": "<|fim_prefix|>a<fim_middle>",
    "byte-tokens": "<0x0A><0xE2>",
    "alphabet": "ĠĊĉ Ã©",
    "replacement": "a�b",
    "space": " ",
    "two-spaces": "  ",
    "newline": "\n",
    "space-letter": " a",
    "letter": "a",
}
# Under NFC these change, and ▁ is a space in disguise: some tokenizers have no canonical sequence for them.
CHANGING: dict[str, str] = {
    "combining": "e\u0301a\u0308\u0304 q\u0323\u0307",
    "jamo": "\u1112\u1161\u11ab",
    "angstrom": "\u212b\u0344\u0958",
    "low-line": "a▁b▁▁",
}
# No text at all: every tokenizer refuses them at the stated byte.
NOT_UTF8: dict[bytes, int] = {
    b"a\xff": 1,
    b"\x80": 0,
    b"ab\xc3(": 3,
    b"\xe2\x28": 1,
    b"\xed\xa0": 1,  # a surrogate
    b"\xf4\x90": 1,  # beyond U+10FFFF
    b"\xc0": 0,  # overlong
    b"\xf0\x9f\x98a": 3,
}
