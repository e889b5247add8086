"""Control tokens: added tokens that stand between texts, by the conventions that models are published with.

Rule
    An added token with one of these names is special here, whether or not its tokenizer declares it so: text that
    spells it stays text, and only an id is the token. Many tokenizers declare theirs as ordinary added tokens (Qwen's
    sentinels and repository tokens, DeepSeek's roles and tools). As they are declared, any text could forge a role or a
    hole. A piece of the vocabulary that is no added token is never touched.

Text, and so not here
    Tags that a model writes as part of its answer: ``<think>``, ``<tool_call>``, ``<tool_response>`` and their ends.
    Qwen's tokenizers leave them undeclared so that decoding shows them, and a transcript that spells them is to be
    scored with the token. Runs of spaces, HTML tags (Gemma's ``<s>`` is one) and words of code are text as well.
    Whoever wants it otherwise says so: a token that the tokenizer declares special is special, and `ByteLM` takes
    ``text_tokens``.

Sources
    FIM and repository: the formats in bytelm/fim/known.py; the model cards of StarCoder, StarCoder2, Qwen2.5-Coder
    (whose example ends a middle at ``<|fim_prefix|>``, ``<|fim_suffix|>``, ``<|fim_pad|>``, ``<|repo_name|>`` and
    ``<|file_sep|>``), DeepSeek-Coder, CodeGemma, Granite, Seed-Coder; llama.cpp's src/llama-vocab.cpp, which makes the
    same tokens control tokens by their names.
    Chat and tool: the chat templates of ChatML, Llama 3, Gemma, Phi, GLM, Granite, Command R, DeepSeek, Mistral.
"""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIM: Final = frozenset(
    {
        *("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"),
        *("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>"),
        *("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
        *("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"),
        *("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        *("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
        *("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
        *("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),
        *("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
        *("<|prefix|>", "<|suffix|>", "<|middle|>"),  # Falcon-H1-Tiny-Coder
    }
)

REPOSITORY: Final = frozenset(
    {
        *("<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|fim_repo|>"),
        *("<|reponame|>", "<|filename|>"),
        *("<repo_name>", "<reponame>", "<file_sep>", "<filename>", "<gh_stars>"),
        *("<issue_start>", "<issue_comment>", "<issue_closed>"),
        *("<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>"),
        *("<empty_output>", "<commit_before>", "<commit_msg>", "<commit_after>"),
    }
)

CHAT: Final = frozenset(
    {
        *("<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|startoftext|>", "<|EOT|>"),
        *("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
        *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
        *("<start_of_turn>", "<end_of_turn>"),
        *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|end|>"),
        *("<|start_of_role|>", "<|end_of_role|>"),
        *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        *("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        *("<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"),
        *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    }
)

TOOL: Final = frozenset(
    {
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
        *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        "<｜tool▁sep｜>",
        *("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    }
)

CONTROL_TOKENS: Final = FIM | REPOSITORY | CHAT | TOOL


def with_special(tokenizer: Tokenizer, names: AbstractSet[str]) -> Tokenizer:
    """A copy of a tokenizer in which exactly the added tokens with these names are special."""
    from tokenizers import Tokenizer

    specification = json.loads(tokenizer.to_str())
    for token in specification["added_tokens"]:
        token["special"] = token["content"] in names
    return Tokenizer.from_str(json.dumps(specification, ensure_ascii=False))
