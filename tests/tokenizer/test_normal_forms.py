"""Normal forms: which text they leave alone, against the normalizer on whole texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from bytelm.tokenizer.normal_forms import Form, NormalForm, changed_points
from bytelm.tokenizer.prefix_index import PrefixIndex
from bytelm.tokenizer.split.char_classes import CODE_POINTS

characters = st.sampled_from(
    "ae\u00e9\u0301\u0300\u0305\u0316\u0323\u0345\u0334\u1100\u1161\u11a8\uac00\u09c7\u09be\u09d7\u0915\u093c\u212b 漢"
)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@settings(max_examples=300)
@given(text=st.lists(characters, max_size=7).map("".join))
def test_windows_decide_as_the_whole_text_does(form: Form, text: str) -> None:
    """Reading character by character, a text is kept if and only if the normalizer leaves it as it is."""
    forbidden = changed_points(form)
    watch = NormalForm(form, PrefixIndex([b"a"]), forbidden)
    real = normalizers.NFC() if form == "NFC" else normalizers.NFD()

    kept, tail = True, ""
    for char in text:
        kept = kept and not forbidden[ord(char)] and watch.keeps_with(tail, char, b"")
        tail = watch.window(tail + char)
    assert kept == (real.normalize_str(text) == text)


def test_an_unfinished_character_is_kept_while_some_completion_is() -> None:
    """After e, the first byte of a combining mark may still become one that does not combine."""
    watch = NormalForm("NFC", PrefixIndex([b"a"]), changed_points("NFC"))

    assert watch.keeps_with("e", "", "\u0301".encode()[:1])
    assert not watch.keeps_with("e", "\u0301", b"")
    assert len(changed_points("NFC")) == CODE_POINTS
