"""Exact bits per byte of any text under any model or ensemble: ``python -m evals.bits_per_byte FILES…``.

    −log₂ P(document) / bytes, where P is the probability that a text begins with the document; the end of text is not
    counted. Bytes are the same for all models, so models with different tokenizers can be compared.

Rows
    *MODEL, bytes* and *MODEL, tokens*; and the models together, as *mixture*, *bayes* or *product*. scores.py defines
    each, and says how it scores documents longer than a model's context.

Results
    For each source the bits of all documents divided by their bytes, with a 95 % interval by the bootstrap over
    documents; the difference from the best member by bytes, over the same resamples; tokens fed and time per byte.
    By position: the same for every `BIN` bytes; a token's bits are divided evenly among its bytes.
    If a model cannot spell a document, or gives it probability 0, all models leave it out, and it is counted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from bytelm import ByteLM
from bytelm.byte_lm.fingerprint import digest_of_model
from bytelm.ensemble.combine import Combine
from bytelm.errors import UnreachablePrefixError
from evals.bits_per_byte.documents import PACKAGED, Document, Documents, read_documents
from evals.bits_per_byte.scores import Panel
from evals.report.command import add_engine_options, at_least, chosen, command, numbers, set_threads, words_of
from evals.report.output import nothing_to_draw, save_figure
from evals.report.progress import bar
from evals.report.records import Line, command_of, exit_status, kept_lines, read_records
from evals.report.statistics import ratio_of
from evals.report.surroundings import processor, versions
from evals.report.tables import console, interval, note_too_few, print_line, table

BIN: Final = 64  # bytes
SMOOTH: Final = 5  # bins
SHOWN: Final = 0.1  # the plot ends where fewer of the documents reach


def line_of(document: Document, panel: Panel) -> Line:
    """The line of a document in the results file."""
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
    words = words_of(arguments)
    options = _parsed(words)
    return exit_status(lambda: _main(options, words), options.out)


def _main(options: argparse.Namespace, words: Sequence[str]) -> int:
    header, lines = read_records(options.read) if options.read else _scored(options, words)
    summary = summary_of(header, lines)
    print(json.dumps(summary, indent=1)) if options.json else _show(summary)
    if options.plot:
        _plot(summary, options.plot)
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = command("evals.bits_per_byte", __doc__)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help=f"text files, folders, .jsonl files, or {', '.join(PACKAGED)}"
    )
    parser.add_argument(
        "-m", "--model", action="append", help="a folder, a hub id, or a packaged model; may be repeated"
    )
    parser.add_argument(
        "--combine", help=f"of {', '.join(get_args(Combine))}; all models are members (default mixture,bayes)"
    )
    parser.add_argument("--weights", help="one weight for each member, such as 0.7,0.3 (default: equal)")
    parser.add_argument(
        "--bytes", type=int, default=100_000, metavar="N", help="bytes to read of each FILE (default 100000)"
    )
    parser.add_argument(
        "--document-bytes", type=int, default=4096, metavar="N", help="the beginning of each text (default 4096)"
    )
    parser.add_argument("--stride", type=int, default=1024, metavar="N", help="bytes of each piece (default 1024)")
    parser.add_argument("--field", help="the field that holds the text in each line of a .jsonl file")
    parser.add_argument("--glob", default="*.py", help="which files of a folder to use (default *.py)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of the documents")
    add_engine_options(parser)
    parser.add_argument("--out", type=Path, help="write one line here for each finished document")
    parser.add_argument("--resume", action="store_true", help="continue the file of --out")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--plot", type=Path, help="draw bits per byte by position to this file")
    parser.add_argument("--read", type=Path, help="show this result file; run nothing")
    options = parser.parse_args(words)
    options.model = options.model or ["demo"]
    names = [Path(model).name for model in options.model]
    given = options.combine or ("mixture,bayes" if len(names) > 1 else "")
    options.combine = chosen(parser, "formula", given, get_args(Combine)) if given else []
    options.weights = numbers(parser, "--weights", options.weights) if options.weights else None
    if options.read is None and not options.files:
        parser.error("name a FILE to score, or a results file with --read")
    if options.combine and len(names) < 2:
        parser.error("--combine needs two models or more: repeat --model")
    if len(set(names)) < len(names):
        parser.error(f"two models have the same name: {', '.join(names)}")
    at_least(parser, options, "bytes", "document_bytes", "stride")
    if options.resume and options.out is None:
        parser.error("--resume continues a file: name it with --out")
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
    set_threads(options.threads)
    lms = {
        Path(model).name: ByteLM.from_pretrained(model, device=options.device, dtype=options.dtype)
        for model in options.model
    }
    panel = Panel(lms, combine=options.combine, weights=options.weights, stride=options.stride)
    header = _header(options, panel, documents, words)
    with kept_lines(options.out, header, resume=options.resume) as records:
        for line in _watched(documents.taken, list(records.lines), panel):
            records.add(line)
    return {"kind": "header", **header}, records.lines


def _header(options: argparse.Namespace, panel: Panel, documents: Documents, words: Sequence[str]) -> Line:
    models = {name: getattr(lm.token_lm, "model", None) for name, lm in panel.lms.items()}
    return {
        "command": command_of("evals.bits_per_byte", words),
        "settings": {
            "sources": list(documents.left_out),
            "sha256": documents.sha256(),
            "documents": len(documents.taken),
            "texts_left_out": documents.left_out,
            "models": {name: digest_of_model(model) for name, model in models.items()},
            "dtypes": {name: str(getattr(model, "dtype", None)) for name, model in models.items()},
            "methods": panel.methods,
            "weights": panel.weights,
            "document_bytes": options.document_bytes,
            "stride": options.stride,
            "bin_bytes": BIN,
        },
        "versions": versions(python=True),
        "machine": processor(),
    }


def _watched(documents: Sequence[Document], old: Sequence[Line], panel: Panel) -> Iterator[Line]:
    """The lines that are missing, with a bar over the bytes and the bits per byte so far."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    done = {(line["source"], line["id"]) for line in old}
    sums = dict.fromkeys(panel.methods, 0.0)
    scored = 0
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with bar(*columns) as progress:
        task = progress.add_task("bits / byte", total=sum(len(document.text) for document in documents))
        for document in documents:
            if (document.source, document.id) not in done:
                line = line_of(document, panel)
                if line["kind"] == "document":
                    scored += line["bytes"]
                    sums = {method: bits + math.fsum(line["bits"][method]) for method, bits in sums.items()}
                yield line
            told = "  ".join(f"{method} {bits / scored:.3f}" for method, bits in sums.items()) if scored else ""
            progress.update(task, advance=len(document.text), description=told or "bits / byte")


def _show(summary: dict[str, Any]) -> None:
    print_line(summary["command"])
    for source, figures in summary["figures"].items():
        counts = summary["documents"][source]
        left_out = f", {counts['left_out']} left out" if counts["left_out"] else ""
        title = f"{source}: {counts['scored']} documents, {counts['bytes']:,} bytes{left_out}"
        columns = ["", "bits / byte [95 % interval]", "less the best member's bytes", "fed / byte", "ms / byte"]
        made = table(title, columns)
        for method, row in figures.items():
            difference = "-" if row["difference"] is None else interval(row["difference"], sign="+", digits=4)
            cost = (f"{row['fed_per_byte']:.2f}", f"{1000 * row['seconds_per_byte']:.1f}")
            made.add_row(method, interval(row["bits_per_byte"], digits=4), difference, *cost)
        console().print(made)
    note_too_few(summary["figures"], "documents")


def _plot(summary: dict[str, Any], path: Path) -> None:
    """Bits per byte by position in a document, the mean over a few bins."""
    from matplotlib.figure import Figure

    found = summary["by_position"]
    if not found:
        raise nothing_to_draw(path)
    figure = Figure(figsize=(1 + 4.5 * len(found), 4.4), layout="constrained")
    for axes, (source, sums) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        reached = sum(count >= SHOWN * sums["documents"][0] for count in sums["documents"])
        window = np.ones(min(SMOOTH, reached))
        sizes = np.convolve(sums["bytes"][:reached], window, "same")
        middles = BIN * (np.arange(reached) + 0.5)
        colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(each.split(", ")[0] for each in sums["bits"]))}
        for method, bits in sums["bits"].items():  # one colour for each model; by tokens with dots
            style = ":" if method.endswith(", tokens") else "-"
            look = {"color": colours[method.split(", ")[0]], "linewidth": 2 if style == ":" else 1.4}
            axes.plot(middles, np.convolve(bits[:reached], window, "same") / sizes, style, label=method, **look)
        axes.set_title(source)
        axes.set_xlabel("position in the document (bytes)", fontsize=11)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].set_ylabel("bits per byte", fontsize=11)
    lines, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
