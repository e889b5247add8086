"""The summary of a results file: figures by method and by class of cursor, cost, pairs; as tables and as a plot.

Rules
    A summary is a plain dict (`--json` prints it), made from the lines of the file alone, without the data.
    Means have 95 % intervals over groups. Pairs compare *byte* with each other method of a run, and a run with the
    first one of the same data, method by method, on the samples that both have (report/statistics.py). In left mode
    figures mean something else, so such a run is paired with others in left mode alone. P-values are not corrected for
    multiple comparisons.
    An unfinished file is summarised as far as it goes, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evals.fim.figures import BINARY, FIGURES, pass_at_k
from evals.fim.problems import CLASSES
from evals.report.output import save_figure
from evals.report.records import Line, RecordsError, key_of
from evals.report.statistics import LEAST, mean_of, pair_of
from evals.report.tables import console, interval, note_too_few, print_line, table

ALL: Final = "all"
COSTS: Final = ("calls", "fed", "tokens", "first_s", "seconds")
TITLES: Final = {
    "exact": "exact, %",
    "first_4": "first 4 B, %",
    "first_16": "first 16 B, %",
    "similarity": "similarity, %",
    "saved": "chars saved",
    "saved_share": "chars saved, %",
}
DRAWN: Final = {"exact": "completions that are exact (%)", "first_4": "completions whose first 4 bytes are right (%)"}
CALLED: Final = {"token": "by tokens", "heal": "token healing", "align": "token alignment", "byte": "by bytes"}
BY_CLASS: Final = ("exact", "first_4", "similarity", "saved_share")
Summary = dict[str, Any]


def of(header: Line, lines: Sequence[Line], *, ks: Sequence[int] = (1,)) -> Summary:
    """The summary of a file.

    Args:
        header: Its first line.
        lines: The others.
        ks: The k of pass@k.

    Raises:
        RecordsError: It holds no sample.
        InvalidArgumentError: A k is greater than the number of samples of a problem.
    """
    settings = header["settings"]
    rows = _rows(header, lines)
    samples = [row for group in rows.values() for row in group]
    if not samples:
        raise RecordsError(f"the results of {header['command']!r} hold no sample yet: continue with --resume")
    methods, classes = list(rows), _classes_of(samples)
    return {
        "command": header["command"],
        "settings": settings,
        "label": f"{settings['model']}, {settings['format']}",
        "samples": len(samples),
        "samples_asked": settings["problems"] * settings["samples"] * len(settings["methods"]),
        "figures": {
            name: {
                part: {figure: asdict(_mean(_part(rows[name], part), figure)) for figure in FIGURES}
                for part in (ALL, *classes)
                if _part(rows[name], part)
            }
            for name in methods
        },
        "cost": {name: _cost(rows[name], closed=bool(settings.get("closing"))) for name in methods},
        "pairs": [
            {"first": "byte", "second": other, **pair}
            for other in methods
            if other != "byte" and "byte" in methods
            for pair in _pairs(rows["byte"], rows[other])
        ],
        **_passing(lines, ks),
    }


def compared(runs: Sequence[tuple[str, Line, list[Line]]], *, ks: Sequence[int] = (1,)) -> list[Summary]:
    """The summaries of several files; each but the first of its data has ``"against"``: its pairs with it.

    Args:
        runs: The name, the header and the other lines of each file.
        ks: As for `of`.

    Raises:
        RecordsError: As for `of`.
        InvalidArgumentError: As for `of`.
    """
    summaries: list[Summary] = []
    firsts: dict[tuple[str, str, bool], int] = {}
    for place, (file, header, lines) in enumerate(runs):
        summary = of(header, lines, ks=ks) | {"file": file}
        settings = header["settings"]
        alike = (settings["benchmark"], settings["data"]["sha256"], settings["mode"] == "left")
        first = firsts.setdefault(alike, place)
        if first != place:
            ours, theirs = _rows(header, lines), _rows(*runs[first][1:])
            summary["against"] = {
                "place": first,
                "pairs": [
                    {"method": method, **pair}
                    for method in ours
                    if method in theirs
                    for pair in _pairs(ours[method], theirs[method])
                ],
            }
        summaries.append(summary)
    return summaries


def _rows(header: Line, lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The samples of each method that has any."""
    rows: dict[str, list[Line]] = {name: [] for name in header["settings"]["methods"]}
    for line in lines:
        if line["kind"] == "sample":
            rows[line["method"]].append(line)
    return {name: sorted(found, key=_place) for name, found in rows.items() if found}


def _classes_of(rows: Sequence[Line]) -> list[str]:
    there = {row["cursor"] for row in rows}
    return [name for name in CLASSES if name in there]


def _place(line: Line) -> tuple[str, int]:
    return line["id"], line["sample"]


def _part(rows: Sequence[Line], part: str) -> list[Line]:
    return [row for row in rows if part in (ALL, row["cursor"])]


def _mean(rows: Sequence[Line], figure: str) -> Any:
    return mean_of([row[figure] for row in rows], [row["group"] for row in rows])


def _cost(rows: Sequence[Line], *, closed: bool) -> dict[str, float]:
    """Means over the completions whose cost was counted, and calls per token drawn.

    The tokens drawn are the canonical tokens of the completion and, if it ended by itself, the token that ended it: the
    model was called for that one too. ``closed``: the completion includes the text that ended it.
    """
    counted = [row for row in rows if "calls" in row]
    sums = {name: sum(row[name] for row in counted) for name in COSTS}
    refused = sum(row["finish"] == "refused" for row in rows)
    drawn = sums["tokens"] + sum(row["finish"] in (("eot",) if closed else ("eot", "stop")) for row in counted)
    per_token = sums["calls"] / drawn if drawn > 0 else float("nan")
    means = {name: sums[name] / len(counted) if counted else float("nan") for name in COSTS}
    return {"n": len(counted), **means, "calls_per_token": per_token, "refused": refused}


def _pairs(first: Sequence[Line], second: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """The first less the second on the samples of both, by class of cursor and figure."""
    theirs = {_place(row): row for row in second}
    both = [row for row in first if _place(row) in theirs]
    for part in (ALL, *_classes_of(both)) if both else ():
        rows = _part(both, part)
        for figure in BY_CLASS:
            ours, their = [row[figure] for row in rows], [theirs[_place(row)][figure] for row in rows]
            pair = pair_of(ours, their, [row["group"] for row in rows], binary=figure in BINARY)
            yield {"cursor": part, "figure": figure, **asdict(pair)}


def _passing(lines: Sequence[Line], ks: Sequence[int]) -> dict[str, Any]:
    """The outcomes of the second pass, if there was one."""
    last = {key_of(line): line for line in lines if line["kind"] == "run"}
    checks = [line for line in lines if line["kind"] == "check"]
    if not (last and checks):
        return {}
    found: dict[str, Any] = {"check": checks[-1], "passing": {}}
    for method in dict.fromkeys(line["method"] for line in last.values()):
        runs = [line for line in last.values() if line["method"] == method]
        states = {
            state: sum(r["state"] == state for r in runs) for state in ("passed", "failed", "timed out", "not run")
        }
        by_problem: dict[str, list[Line]] = {}
        for line in runs:
            if line["state"] != "not run":
                by_problem.setdefault(line["id"], []).append(line)
        counts = [len(group) for group in by_problem.values()]
        passed = [sum(line["state"] == "passed" for line in group) for group in by_problem.values()]
        groups = [group[0]["group"] for group in by_problem.values()]
        at_k = {str(k): asdict(mean_of(pass_at_k(counts, passed, k), groups)) for k in ks} if counts else {}
        found["passing"][method] = {"states": states, "pass_at": at_k}
    return found


def show(summaries: Sequence[Summary], *, short: bool = False) -> None:
    """Print the tables; ``short``: by class and in pairs the exact ones alone."""
    for benchmark in dict.fromkeys(summary["settings"]["benchmark"] for summary in summaries):
        places = [i for i, summary in enumerate(summaries) if summary["settings"]["benchmark"] == benchmark]
        these = [summaries[i] for i in places]
        names = dict(zip(places, _names(these), strict=True))
        console().print(_figures(benchmark, these, list(names.values())))
        console().print(_costs(these, list(names.values())))
        for place, summary in zip(places, these, strict=True):
            figures = BY_CLASS[:1] if short else BY_CLASS if benchmark == "cursor" else BY_CLASS[:2]
            for figure in figures:
                console().print(_classes(summary, figure))
            own = [(pair["second"], pair) for pair in summary["pairs"]]
            tables = [(f"{summary['label']}: byte against the others, in pairs", "against", own)] if own else []
            if against := summary.get("against"):
                other = [(pair["method"], pair) for pair in against["pairs"]]
                tables.append((f"{names[place]} against {names[against['place']]}, in pairs", "method", other))
            for title, head, pairs in tables:
                if pairs:
                    paired = BY_CLASS[:1] if short else BY_CLASS
                    console().print(_pairs_table(title, head, pairs, paired, all_classes=benchmark == "cursor"))
                else:
                    print_line(f"{title}: none; no method has samples of the same problem in both")
            for line in _notes(summary):
                print_line(line)
        note_too_few(these, "tasks" if benchmark != "cursor" else "files")


def _names(summaries: Sequence[Summary]) -> list[str]:
    """The names of runs in tables: the order of the prompt, model and format, or the file, whichever tells them apart."""
    orders = [summary["settings"]["format"].split()[-1] for summary in summaries]
    labels = [summary["label"] for summary in summaries]
    same = len({summary["settings"]["model"] for summary in summaries}) == 1
    several = len(summaries)
    if same and len(set(orders)) == several:
        return orders
    return labels if len(set(labels)) == several else [summary["file"] for summary in summaries]


def _figures(benchmark: str, summaries: Sequence[Summary], runs: Sequence[str]) -> Any:
    names = [name for name in TITLES if name != "saved_share"]
    columns = ["run", "method", "n", *(TITLES[name] for name in names)]
    models = ", ".join(dict.fromkeys(summary["settings"]["model"] for summary in summaries))
    made = table(f"{benchmark}, {models}: mean [95 % interval]", columns, left=2)
    for summary, run in zip(summaries, runs, strict=True):
        for place, (method, parts) in enumerate(summary["figures"].items()):
            values = parts[ALL]
            shown = [interval(values[name], 1 if name == "saved" else 100) for name in names]
            made.add_row("" if place else run, method, str(values["exact"]["n"]), *shown)
        made.add_section()
    return made


def _costs(summaries: Sequence[Summary], runs: Sequence[str]) -> Any:
    names = ["n", "calls", "calls / token", "tokens fed", "first byte, ms", "seconds", "refused"]
    made = table("cost of a completion", ["run", "method", *names], left=2)
    for summary, run in zip(summaries, runs, strict=True):
        for place, (method, cost) in enumerate(summary["cost"].items()):
            values = (cost["calls"], cost["calls_per_token"], cost["fed"], 1000 * cost["first_s"], cost["seconds"])
            shown = [f"{value:.{digits}f}" for value, digits in zip(values, (1, 2, 1, 0, 2), strict=True)]
            made.add_row("" if place else run, method, str(cost["n"]), *shown, str(cost["refused"]))
        made.add_section()
    return made


def _classes(summary: Summary, figure: str) -> Any:
    figures = summary["figures"]
    made = table(f"{summary['label']}: {TITLES[figure]}, by class of cursor", ["cursor", "n", *figures])
    for part in dict.fromkeys(part for parts in figures.values() for part in parts):
        cells = [interval(parts[part][figure], 100) if part in parts else "-" for parts in figures.values()]
        n = max(parts[part][figure]["n"] for parts in figures.values() if part in parts)
        made.add_row(part, str(n), *cells)
    return made


def _pairs_table(
    title: str, head: str, pairs: Sequence[tuple[str, Mapping[str, Any]]], figures: Sequence[str], *, all_classes: bool
) -> Any:
    columns = [head, "cursor", "figure", "points [95 % interval]", "better", "worse", "test", "p"]
    made = table(title, columns, left=3)
    for name, pair in pairs:
        if pair["figure"] in figures and (pair["cursor"] == ALL or (all_classes and pair["figure"] == "exact")):
            shown = [interval(pair["difference"], 100, sign="+"), str(pair["better"]), str(pair["worse"])]
            figure = TITLES[pair["figure"]].removesuffix(", %")
            made.add_row(name, pair["cursor"], figure, *shown, pair["test"], f"{pair['p']:.2g}")
    return made


def _notes(summary: Summary) -> Iterator[str]:
    settings = summary["settings"]
    yield f"{summary['label']}: {summary['command']}"
    if summary["samples"] < summary["samples_asked"]:
        yield f"  {summary['samples']} of {summary['samples_asked']} samples so far: go on with --resume"
    if settings["mode"] == "left":
        yield "  In left mode a completion is cut to the length of the middle before it is compared: nothing else ends it."
    if "check" in summary:
        told = summary["check"]
        yield (
            f"  Of the rows' own middles {told['canonical_passed']} passed; {told['broken_failed']} broken ones and "
            f"{told['raising_failed']} with a function that raises failed. Contained: {told['contained']}"
        )
        for method, ran in summary["passing"].items():
            at_k = ", ".join(f"pass@{k} {interval(mean, 100)} %" for k, mean in ran["pass_at"].items())
            yield f"  {method}: {at_k}; " + ", ".join(f"{n} {state}" for state, n in ran["states"].items())


def plot(summaries: Sequence[Summary], path: Path) -> None:
    """Draw points with intervals: a row of panels for each file, the whole lines and the first four bytes by class.

    Raises:
        RecordsError: The file cannot be written, or its ending names no format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.6 + 3.6 * len(summaries)), layout="constrained")
    panels = figure.subplots(len(summaries), 2, squeeze=False, sharex="col", sharey="row")
    for summary, row in zip(summaries, panels, strict=True):
        for name, panel in zip(DRAWN, row, strict=True):
            _points(panel, summary, name)
        row[0].set_title(summary["label"], fontsize=12, loc="left")
    for panel, name in zip(panels[-1], DRAWN, strict=True):
        panel.set_xlabel(DRAWN[name], fontsize=12)
    lines, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper right", ncols=len(labels), fontsize=11, frameon=False)
    save_figure(figure, path)


def _points(panel: Any, summary: Summary, name: str) -> None:
    figures = summary["figures"]
    parts = list(dict.fromkeys(part for found in figures.values() for part in found))
    for place, (method, found) in enumerate(figures.items()):
        there = [i for i, part in enumerate(parts) if part in found]
        means = [found[parts[i]][name] for i in there]
        values = [100 * mean["mean"] for mean in means]
        whole = [mean["groups"] >= LEAST for mean in means]
        down = [100 * (m["mean"] - m["low"]) if ok else 0 for m, ok in zip(means, whole, strict=True)]
        up = [100 * (m["high"] - m["mean"]) if ok else 0 for m, ok in zip(means, whole, strict=True)]
        at = [i + (place - (len(figures) - 1) / 2) * 0.8 / len(figures) for i in there]
        label = CALLED.get(method, method)
        panel.errorbar(values, at, xerr=[down, up], fmt="o", markersize=5, capsize=2, linewidth=1, label=label)
    if not any(found[part][name]["mean"] for found in figures.values() for part in found):
        panel.text(0.5, 0.5, "all are 0", transform=panel.transAxes, ha="center", va="center", fontsize=11)
    sizes = [max(found[part][name]["n"] for found in figures.values() if part in found) for part in parts]
    panel.set_yticks(range(len(parts)), [f"{part} ({n})" for part, n in zip(parts, sizes, strict=True)], fontsize=11)
    panel.set_ylim(len(parts) - 0.5, -0.5)
    panel.tick_params(axis="x", labelsize=11, labelbottom=True)
    panel.margins(x=0.04)
    panel.hlines([i + 0.5 for i in range(len(parts) - 1)], 0, 1, "0.9", transform=panel.get_yaxis_transform(), zorder=0)
    panel.spines[["top", "right"]].set_visible(False)
