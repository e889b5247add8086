"""Fill in the middle: the formats that models were trained with, and the prompt that a format makes.

This chapter decides how a text with a hole in it is put to a model. It takes a tokenizer's vocabulary, a prefix and a
suffix, and gives a prompt of token ids and texts, as cover/prefix.py reads them. It runs no model.

Rules
    Text that spells a sentinel stays text. The tokens of a format of your own may be neither declared special nor known
    as control tokens (tokenizer/control_tokens.py); `declared` then reads the tokenizer anew, with them special.
    All ids that end a middle end the text: those of the model, and those of the format that the tokenizer has. A format
    names what its maker ends a middle at, and the tokens that pad a hole or begin another file in the maker's training
    texts.

Does not
    Know what a model was trained on. Tokenizers carry sentinels that their model has never seen (Mistral's and Qwen's
    general models, for two); `mode="left"` works for any model.

Read on in ``format`` (one format), ``known`` (those of published models), ``prompt`` (the prompt, the carried line),
``files`` (other files in view), ``chat`` (for models without sentinels).
"""

from bytelm.fim.files import Context, OtherFiles
from bytelm.fim.format import FIMFormat, Mode, is_sentinel, read_format
from bytelm.fim.known import FORMATS, declared, end_ids, find_format
from bytelm.fim.prompt import CARRIED, Carry, InfillSettings, carried_from, infill_prompt

__all__ = [
    "CARRIED",
    "FORMATS",
    "Carry",
    "Context",
    "FIMFormat",
    "InfillSettings",
    "Mode",
    "OtherFiles",
    "carried_from",
    "declared",
    "end_ids",
    "find_format",
    "infill_prompt",
    "is_sentinel",
    "read_format",
]
