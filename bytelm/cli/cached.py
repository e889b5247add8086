r"""The commands ``bytelm models`` and ``bytelm cache``: which models come with bytelm, and what it keeps on disk.

Rules
    Neither loads a model or fetches anything. The cache folder is ``BYTELM_CACHE``, or the user's.
    ``--clear`` removes what bytelm wrote and nothing else, and asks first. Where nobody can answer it needs ``--yes``.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from bytelm.cli.io import note, print_json
from bytelm.cli.options import JsonOption
from bytelm.cli.tables import columns
from bytelm.packaged import PACKAGED, PackagedModel, packaged_place
from bytelm.packaged.cached import KINDS, cached, remove
from bytelm.progress import Bar
from bytelm.tokenizer.disk_cache import cache_root


def models(as_json: JsonOption = False) -> None:
    """List the packaged models, and which of them are in the cache.

    \b
    Examples:
      bytelm models
      bytelm models --json

    Every command takes such a name as --model. The first time it fetches and converts the model.
    """
    rows = [["name", "model", "licence", "tokens", "download", "on disk", "folder"]]
    for name, model in PACKAGED.items():
        folder, whole = packaged_place(name)
        on_disk = sum(path.stat().st_size for path in folder.iterdir()) if whole else None
        download = model.download_bytes if isinstance(model, PackagedModel) else None
        base = None if isinstance(model, PackagedModel) else model.base
        if as_json:
            print_json(
                {
                    "name": name,
                    "title": model.title,
                    "licence": model.licence,
                    "vocabulary": model.vocabulary,
                    "download_bytes": download,
                    "base": base,
                    "cached": whole,
                    "disk_bytes": on_disk,
                    "folder": str(folder),
                }
            )
            continue
        rows.append(
            [
                name,
                model.title,
                model.licence,
                str(model.vocabulary),
                f"with {base}" if download is None else show_size(download),
                "not yet" if on_disk is None else show_size(on_disk),
                str(folder),
            ]
        )
    if not as_json:
        typer.echo(columns(rows, right=[False, False, False, True, True, True]))


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove what bytelm keeps, and nothing else.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --clear: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what bytelm keeps on disk; --clear removes it.

    \b
    Examples:
      bytelm cache
      bytelm cache --clear
      bytelm cache --clear --yes --json

    The folder is BYTELM_CACHE, or the user's cache folder. Files that bytelm did not write stay. What it needs again it
    fetches or computes again.
    """
    if yes and not clear:
        raise typer.BadParameter("--yes answers what --clear asks; give --clear too")
    things, root = cached(), cache_root()
    found = {kind: [thing for thing in things if thing.kind == kind] for kind in KINDS}
    sizes = {kind: sum(thing.size for thing in found[kind]) for kind in KINDS}
    total = sum(sizes.values())
    if clear and things:
        if not yes:
            confirm(f"Remove {show_size(total)} from {root}?")
        with Bar(f"clearing {root}") as bar:
            for thing in things:
                bar.step(f"removing {thing.path.name}")
                remove(thing)
        for kind in KINDS:
            with suppress(OSError):  # it is not empty, or was never there
                (root / kind).rmdir()
    if as_json:
        for kind, kept in found.items():
            print_json(
                {
                    "kind": kind,
                    "files": sum(len(thing.files) for thing in kept),
                    "bytes": sizes[kind],
                    "folder": str(root / kind),
                    "removed": clear,
                }
            )
        return
    rows = [
        [kind, meaning, str(sum(len(thing.files) for thing in found[kind])), show_size(sizes[kind])]
        for kind, meaning in KINDS.items()
    ]
    total_files = sum(len(thing.files) for thing in things)
    head = "removed" if clear else "kept"
    table = [["", str(root), "files", head], *rows, ["", "in all", str(total_files), show_size(total)]]
    typer.echo(columns(table, right=[False, False, True, True]))


def confirm(question: str) -> None:
    """Ask on standard error, and end the command unless the answer is yes."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise typer.BadParameter("--clear asks before it removes anything, and nobody can answer here: give --yes")
    if not typer.confirm(question, err=True):
        note("nothing is removed")
        raise typer.Exit(1)


def show_size(count: int) -> str:
    """A number of bytes in the unit that suits it.

    >>> show_size(0), show_size(999), show_size(1_500), show_size(538_090_408)
    ('0 B', '999 B', '1.5 kB', '538.1 MB')
    """
    if count < 1000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"
