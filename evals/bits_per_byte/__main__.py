"""Exact bits per byte of any text under any model or ensemble: ``python -m evals.bits_per_byte FILES…``.

    −log₂ P(text) / bytes, where P is that of the document's bytes, from the beginning of a text on; its end is not
    counted. Bytes are the same for all models, so models with different tokenizers can be compared.

Rows
    *MODEL, bytes* and *MODEL, tokens*; and the models together, as *mixture*, *bayes* or *product*: scores.py says what
    each is, and what becomes of documents that are longer than a model's context.

What is told
    For each source the bits of all its documents over their bytes, with a 95 % interval by the bootstrap over
    documents; the difference from the best member by bytes, over the same resamples; tokens fed and time a byte.
    By position: the same of `BIN` bytes at a time, a token's bits shared out evenly among its bytes.
    A document that some model cannot spell, or gives no probability at all, is left out for all and counted.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from bytelm import ByteLM
from bytelm.byte_lm.fingerprint import fingerprint
from bytelm.ensemble.combine import Combine
from bytelm.errors import InvalidArgumentError, UnreachablePrefixError
from evals.bits_per_byte.documents import PACKAGED, Document, Documents, read_documents
from evals.bits_per_byte.scores import Panel
from evals.report.records import Line, Records, command_of, exit_status, read_records
from evals.report.statistics import ratio_of

BIN: Final = 64  # bytes
SMOOTH: Final = 5  # bins
SHOWN: Final = 0.1  # of the documents reach as far as the plot goes
LIBRARIES: Final = ("torch", "transformers", "tokenizers", "numpy")


def line_of(document: Document, panel: Panel) -> Line:
    """What the results file says of a document."""
    about = {"source": document.source, "id": document.id, "bytes": len(document.text)}
    try:
        scores = panel.scores(document.text)
    except UnreachablePrefixError as error:
        return {"kind": "left out", **about, "why": str(error)}
    impossible = [method for method, score in scores.items() if np.isneginf(score.logprobs).any()]
    if impossible:
        return {"kind": "left out", **about, "why": f"probability 0 under {', '.join(impossible)}"}
    starts = range(0, len(document.text), BIN)
    return {
        "kind": "document",
        **about,
        "bits": {
            method: [round(float(-part / math.log(2)), 4) for part in np.add.reduceat(score.logprobs, starts)]
            for method, score in scores.items()
        },
        "cost": {
            method: {"calls": score.calls, "fed": score.fed, "seconds": round(score.seconds, 3)}
            for method, score in scores.items()
        },
    }


def summary_of(header: Line, lines: Sequence[Line]) -> dict[str, Any]:
    """The figures of a results file, by source and method."""
    settings = header["settings"]
    figures, positions = {}, {}
    for source in settings["sources"]:
        own = [line for line in lines if line["kind"] == "document" and line["source"] == source]
        if own:
            figures[source] = _figures(own, settings["methods"])
            positions[source] = _positions(own, settings["methods"])
    return {
        "command": header["command"],
        "settings": settings,
        "versions": header["versions"],
        "documents": {
            source: {
                "scored": sum(line["kind"] == "document" and line["source"] == source for line in lines),
                "bytes": sum(
                    line["bytes"] for line in lines if line["kind"] == "document" and line["source"] == source
                ),
                "left_out": sum(line["kind"] == "left out" and line["source"] == source for line in lines),
            }
            for source in settings["sources"]
        },
        "figures": figures,
        "by_position": positions,
    }


def _figures(lines: Sequence[Line], methods: Sequence[str]) -> dict[str, Any]:
    sizes = [line["bytes"] for line in lines]
    bits = {method: [math.fsum(line["bits"][method]) for line in lines] for method in methods}
    best = min((method for method in methods if method.endswith(", bytes")), key=lambda method: math.fsum(bits[method]))
    figures = {}
    for method in methods:
        costs = {name: sum(line["cost"][method][name] for line in lines) for name in ("calls", "fed", "seconds")}
        differences = [a - b for a, b in zip(bits[method], bits[best], strict=True)]
        figures[method] = {
            "bits_per_byte": asdict(ratio_of(bits[method], sizes)),
            "difference": None if method == best else asdict(ratio_of(differences, sizes)),
            **{f"{name}_per_byte": amount / sum(sizes) for name, amount in costs.items()},
        }
    return figures


def _positions(lines: Sequence[Line], methods: Sequence[str]) -> dict[str, Any]:
    """Sums over documents for each bin: of bytes, of documents that reach it, and of each method's bits."""
    count = max(len(line["bits"][methods[0]]) for line in lines)
    sizes = np.array([[min(max(line["bytes"] - BIN * i, 0), BIN) for i in range(count)] for line in lines])
    bits = {
        method: np.sum([np.pad(line["bits"][method], (0, count - len(line["bits"][method]))) for line in lines], axis=0)
        for method in methods
    }
    return {
        "bytes": sizes.sum(axis=0).tolist(),
        "documents": (sizes > 0).sum(axis=0).tolist(),
        "bits": {method: values.round(4).tolist() for method, values in bits.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Score what is missing, and print one table."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parsed(words)
    return exit_status(lambda: _main(options, words), options.out)


def _main(options: argparse.Namespace, words: Sequence[str]) -> int:
    header, lines = read_records(options.read) if options.read else _scored(options, words)
    summary = summary_of(header, lines)
    if options.plot:
        _plot(summary, options.plot)
    print(json.dumps(summary, indent=1)) if options.json else _show(summary)
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evals.bits_per_byte", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help=f"text files, folders, .jsonl files, or {', '.join(PACKAGED)}"
    )
    parser.add_argument(
        "-m", "--model", action="append", help="a folder, a hub id, or a packaged model; may be repeated"
    )
    parser.add_argument(
        "--combine", help=f"of {', '.join(get_args(Combine))}; all models are members (default mixture,bayes)"
    )
    parser.add_argument("--weights", help="numbers for the members, such as 0.7,0.3 (default all alike)")
    parser.add_argument("--bytes", type=int, default=100_000, metavar="N", help="of each FILE (default 100000)")
    parser.add_argument(
        "--document-bytes", type=int, default=4096, metavar="N", help="the beginning of each text (default 4096)"
    )
    parser.add_argument("--stride", type=int, default=1024, metavar="N", help="bytes of a piece (default 1024)")
    parser.add_argument("--field", help="the entry of each line of a .jsonl file that is the text")
    parser.add_argument("--glob", default="*.py", help="which files of a folder (default *.py)")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which documents are taken")
    parser.add_argument("--device", help="as transformers takes it")
    parser.add_argument("--dtype", help="the same")
    parser.add_argument("--threads", type=int, help="CPU threads of the models")
    parser.add_argument("--out", type=Path, help="write a line for each document here, when it is done")
    parser.add_argument("--resume", action="store_true", help="go on with --out")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--plot", type=Path, help="draw bits per byte by position to this file")
    parser.add_argument("--read", type=Path, help="show such a file and run nothing")
    options = parser.parse_args(words)
    options.model = options.model or ["demo"]
    names = [Path(model).name for model in options.model]
    given = options.combine or ("mixture,bayes" if len(names) > 1 else "")
    options.combine = [formula for formula in given.split(",") if formula]
    if options.read is None and not options.files:
        parser.error("name a FILE to score, or a results file with --read")
    if unknown := set(options.combine) - set(get_args(Combine)):
        parser.error(f"--combine is of {', '.join(get_args(Combine))}; got {', '.join(sorted(unknown))}")
    if options.combine and len(names) < 2:
        parser.error("--combine needs two models or more: repeat --model")
    if len(set(names)) < len(names):
        parser.error(f"two models are called alike: {', '.join(names)}")
    if min(options.bytes, options.document_bytes, options.stride) < 1:
        parser.error("--bytes, --document-bytes and --stride must be at least 1")
    if options.resume and options.out is None:
        parser.error("--resume goes on with a file: name it with --out")
    return options


def _scored(options: argparse.Namespace, words: Sequence[str]) -> tuple[Line, list[Line]]:
    """The header and all lines of a run, those of an earlier one included."""
    documents = read_documents(
        options.files,
        most_bytes=options.bytes,
        document_bytes=options.document_bytes,
        field=options.field,
        glob=options.glob,
        seed=options.seed,
    )
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    try:
        weights = [float(weight) for weight in options.weights.split(",")] if options.weights else None
    except ValueError:
        raise InvalidArgumentError(f"--weights are numbers with commas between them; got {options.weights!r}") from None
    lms = {
        Path(model).name: ByteLM.from_pretrained(model, device=options.device, dtype=options.dtype)
        for model in options.model
    }
    panel = Panel(lms, combine=options.combine, weights=weights, stride=options.stride)
    header = _header(options, panel, documents, words)
    with ExitStack() as stack:
        records = stack.enter_context(Records(options.out, header, resume=options.resume)) if options.out else None
        lines = records.lines if records is not None else []
        for line in _watched(documents.taken, lines, panel):
            records.add(line) if records is not None else lines.append(line)
    return {"kind": "header", **header}, lines


def _header(options: argparse.Namespace, panel: Panel, documents: Documents, words: Sequence[str]) -> Line:
    models = {name: getattr(lm.token_lm, "model", None) for name, lm in panel.lms.items()}
    return {
        "command": command_of("evals.bits_per_byte", words),
        "settings": {
            "sources": list(documents.left_out),
            "sha256": documents.sha256(),
            "documents": len(documents.taken),
            "texts_left_out": documents.left_out,
            "models": {name: fingerprint(model) for name, model in models.items()},
            "dtypes": {name: str(getattr(model, "dtype", None)) for name, model in models.items()},
            "methods": panel.methods,
            "weights": panel.weights,
            "document_bytes": options.document_bytes,
            "stride": options.stride,
            "bin_bytes": BIN,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "machine": platform.processor() or platform.machine(),
    }


def _watched(documents: Sequence[Document], old: Sequence[Line], panel: Panel) -> Iterator[Line]:
    """The lines that are missing, with a bar over the bytes and the bits per byte so far."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    done = {(line["source"], line["id"]) for line in old}
    sums = dict.fromkeys(panel.methods, 0.0)
    scored = 0
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("bits / byte", total=sum(len(document.text) for document in documents))
        for document in documents:
            if (document.source, document.id) not in done:
                line = line_of(document, panel)
                if line["kind"] == "document":
                    scored += line["bytes"]
                    sums = {method: bits + math.fsum(line["bits"][method]) for method, bits in sums.items()}
                yield line
            told = "  ".join(f"{method} {bits / scored:.3f}" for method, bits in sums.items()) if scored else ""
            progress.update(bar, advance=len(document.text), description=told or "bits / byte")


def _interval(mean: dict[str, float], *, sign: str = "") -> str:
    return f"{mean['mean']:{sign}.4f} [{mean['low']:{sign}.4f}, {mean['high']:{sign}.4f}]"


def _show(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(summary["command"], soft_wrap=True, highlight=False, markup=False)
    for source, figures in summary["figures"].items():
        counts = summary["documents"][source]
        left_out = f", {counts['left_out']} left out" if counts["left_out"] else ""
        title = f"{source}: {counts['scored']} documents, {counts['bytes']:,} bytes{left_out}"
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for name in ("bits / byte [95 % interval]", "less the best member's bytes", "fed / byte", "ms / byte"):
            table.add_column(name, justify="right")
        for method, row in figures.items():
            difference = "-" if row["difference"] is None else _interval(row["difference"], sign="+")
            cost = (f"{row['fed_per_byte']:.2f}", f"{1000 * row['seconds_per_byte']:.1f}")
            table.add_row(method, _interval(row["bits_per_byte"]), difference, *cost)
        console.print(table)


def _plot(summary: dict[str, Any], path: Path) -> None:
    """Bits per byte by position in a document, the mean over a few bins."""
    from matplotlib.figure import Figure

    found = summary["by_position"]
    figure = Figure(figsize=(1 + 5 * max(len(found), 1), 4), layout="constrained")
    for axes, (source, sums) in zip(
        figure.subplots(1, max(len(found), 1), squeeze=False)[0], found.items(), strict=True
    ):
        reached = sum(count >= SHOWN * sums["documents"][0] for count in sums["documents"])
        window = np.ones(min(SMOOTH, reached))
        sizes = np.convolve(sums["bytes"][:reached], window, "same")
        middles = BIN * (np.arange(reached) + 0.5)
        for method, bits in sums["bits"].items():
            style = ":" if method.endswith(", tokens") else "-"
            axes.plot(middles, np.convolve(bits[:reached], window, "same") / sizes, style, label=method)
        axes.set_title(source)
        axes.set_xlabel("position in the document, bytes")
        axes.grid(visible=True, alpha=0.3)
    if found:
        figure.axes[0].set_ylabel("bits per byte")
        figure.axes[0].legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
