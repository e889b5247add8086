"""Python source whose licence lets a model learn from it: the standard library and installed packages.

Rules
    A package is taken if all that its metadata says of its licence is permissive, and it says something: the SPDX
    expression (``License-Expression``) where there is one; otherwise every ``License ::`` classifier and, if it is one
    line, the ``License`` field. All parts of an expression count, whatever joins them. Anything else is left out, with
    the reason kept.
    Folders of tests, and of other people's code inside a package, are left out: their licence may be another.
    What is found comes in one order: by package name, then by path.

Does not
    Read a licence text, or know about a file what its package does not say.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from bytelm.errors import InvalidArgumentError

STANDARD_LIBRARY: Final = "python"

# SPDX names; the names of PyPI's classifiers; what the old free-text field says where it means one of these.
PERMISSIVE: Final = re.compile(
    r"0BSD|Apache-2\.0|BSD-[23]-Clause|BSL-1\.0|CC0-1\.0|CNRI-Python|HPND|ISC|MIT(-0|-CMU)?|PSF-2\.0|Python-2\.0(\.1)?"
    r"|Unlicense|Zlib"
)
EXCEPTION: Final = "LLVM-exception"  # it permits more than the licence that it stands beside
CLASSIFIERS: Final = re.compile(
    r"(Apache Software|BSD|MIT|Python Software Foundation|zlib/libpng) License|Boost Software License 1\.0 \(BSL-1\.0\)"
    r"|ISC License \(ISCL\)|MIT No Attribution License \(MIT-0\)|The Unlicense \(Unlicense\)"
    r"|CC0 1\.0 Universal \(CC0 1\.0\) Public Domain Dedication"
)
SPELLINGS: Final = re.compile(
    r"apache( software)?( license)?(,? (version )?2(\.0)?|-2)?( license)?|(new |modified )?bsd( license)?"
    r"|[23]-clause bsd( license)?|bsd [23]-clause( license)?|isc license|(the )?mit license|psf( license)?"
    r"|python software foundation license|zlib license|boost software license"
)
LEFT_OUT_FOLDERS: Final = frozenset(
    (
        *("__pycache__", "_vendor", "_vendored", "extern", "externals", "third_party", "vendor", "vendored"),
        *("dist-packages", "site-packages", "test", "testing", "tests"),
    )
)
_OPERATORS: Final = frozenset(("and", "or", "with"))


@dataclass(frozen=True, slots=True)
class Source:
    """The Python files of one package.

    Attributes:
        package: Its normal name (PEP 503); the standard library is called ``python``.
        version: The release.
        licence: What its metadata says.
        files: Path inside the package, and where the file lies.
    """

    package: str
    version: str
    licence: str
    files: tuple[tuple[str, Path], ...]


def normal_name(name: str) -> str:
    """A package's name as PEP 503 writes it.

    >>> normal_name("Huggingface_Hub")
    'huggingface-hub'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def is_permissive(expression: str) -> bool:
    """Whether every licence that an SPDX expression names is permissive.

    >>> is_permissive("Apache-2.0 WITH LLVM-exception AND (MIT OR Zlib)"), is_permissive("MIT OR GPL-2.0-only")
    (True, False)
    """
    words = re.findall(r"[A-Za-z0-9.+-]+", expression)
    names = [word for word in words if word.lower() not in _OPERATORS]
    licences = [name for name in names if name != EXCEPTION]
    return bool(licences) and all(map(PERMISSIVE.fullmatch, licences))


def licence_of(expression: str | None, classifiers: Sequence[str], field: str | None) -> tuple[str, bool]:
    """What a package says of its licence, in one line, and whether all of it is permissive.

    >>> licence_of(None, ["License :: OSI Approved :: MIT License"], "MPL-2.0 AND MIT")
    ('MIT License; MPL-2.0 AND MIT', False)
    """
    if expression:
        return expression, is_permissive(expression)
    said = [name for name in classifiers if name.startswith("License ::")]
    named = [name.removeprefix("License :: OSI Approved :: ").removeprefix("License :: ") for name in said]
    judged = [CLASSIFIERS.fullmatch(name) is not None for name in named]
    text = (field or "").strip()
    if text and "\n" not in text and len(text) <= 100:
        judged.append(SPELLINGS.fullmatch(text.lower()) is not None or is_permissive(text))
    else:
        text = ""
    shown = "; ".join([*(name.split(" :: ")[-1] for name in said), *([text] if text else [])])
    return shown or "none stated", bool(judged) and all(judged)


def find_sources(
    packages: Iterable[str] = (), folders: Sequence[Path] = ()
) -> tuple[tuple[Source, ...], dict[str, str]]:
    """The packages that may be learned from, and why others may not.

    Args:
        packages: Look at these alone; without them at all that are installed, and the standard library.
        folders: Look for packages in these site-packages folders instead of on this Python's path.

    Returns:
        The packages by name, and for each that was left out the reason.

    Raises:
        InvalidArgumentError: A folder does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InvalidArgumentError(f"there is no folder {str(folder)!r} to look for packages in")
    wanted = {normal_name(name) for name in packages}
    found: dict[str, Source] = {}
    left_out: dict[str, str] = {}
    if not wanted or STANDARD_LIBRARY in wanted:
        found[STANDARD_LIBRARY] = _standard_library()
    for installed in metadata.distributions(path=[str(folder) for folder in folders] or sys.path):
        said = installed.metadata
        # A folder that was half removed has neither.
        name = normal_name(said["Name"]) if "Name" in said else ""
        if not name or name == "bytelm" or name in found or name in left_out or (wanted and name not in wanted):
            continue
        licence, permissive = licence_of(
            (said.get_all("License-Expression") or [None])[0],
            said.get_all("Classifier") or [],
            (said.get_all("License") or [None])[0],
        )
        if not permissive:
            left_out[name] = f"licence: {licence}"
        elif not (files := _files(installed)):
            left_out[name] = "no Python source"
        else:
            found[name] = Source(name, installed.version, licence, files)
    left_out |= dict.fromkeys(wanted - found.keys() - left_out.keys(), "not installed")
    return tuple(found[name] for name in sorted(found)), dict(sorted(left_out.items()))


def _files(installed: metadata.Distribution) -> tuple[tuple[str, Path], ...]:
    kept = [path for path in installed.files or () if path.suffix == ".py" and ".." not in path.parts]
    kept = [path for path in kept if LEFT_OUT_FOLDERS.isdisjoint(path.parts)]
    return tuple((path.as_posix(), Path(str(path.locate()))) for path in sorted(kept, key=str))


def _standard_library() -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, Path]] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in LEFT_OUT_FOLDERS]  # os.walk goes on with these alone
        paths = [Path(folder, name) for name in names if name.endswith(".py")]
        found += [(path.relative_to(root).as_posix(), path) for path in paths]
    return Source(STANDARD_LIBRARY, platform.python_version(), "PSF-2.0", tuple(sorted(found)))
