"""The summary of a results file of constraints: validity and cost by kind and by case, peers, distances; tables, a plot.

Rules
    A summary is a plain dict (`--json` prints it), made from the lines of the file alone.
    Costs are sums over completions, divided. Where the free text ended early (the model drew the end of text), the pair
    is in no figure of cost, as its sizes differ; *pairs* counts the others.
    *calls / free's* and *time* (of the free texts' time) are ratios of sums, with 95 % intervals over cases
    (report/statistics.py; of the time in the JSON alone).
    *calls / token* counts the canonical tokens of the text that was written. What a constraint forbids to a model is
    often what it would say in few tokens, so bytes compare texts of unequal size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evals.report.output import draw_bars, nothing_to_draw
from evals.report.records import Line, RecordsError
from evals.report.statistics import ratio_of
from evals.report.tables import console, interval, note_too_few, print_line, table

Summary = dict[str, Any]
ALL: Final = "all"
GREEDY: Final = "greedy"
DRAWN: Final = "T=1"
BY: Final = ", "  # between a peer's name and how it wrote
COSTS: Final = ("calls", "fed", "seconds")
WAYS: Final = ("step", "exact", "particles", "chance")
PER: Final = (("calls", "token"), ("calls", "byte"))
BESIDE: Final = "bytelm beside "
REFUSED: Final = "refused"
SHOWN: Final = 100  # characters of a text that is invalid


def of(header: Line, lines: Sequence[Line]) -> Summary:
    """The summary of a file.

    Raises:
        RecordsError: It holds no line.
    """
    done = {kind: [line for line in lines if line["kind"] == kind] for kind in ("draw", "peer", "distance")}
    succeeded = {_key(line) for kind in done.values() for line in kind}
    failed = [line for line in lines if line["kind"] == "failed" and _key(line) not in succeeded]
    if not succeeded and not failed:
        raise RecordsError(f"the results of {header['command']!r} hold no completion yet: go on with --resume")
    draws = done["draw"]
    return {
        "command": header["command"],
        "settings": header["settings"],
        "kinds": _by(draws, lambda line: (line["of"], ALL)),
        "cases": _by(draws, lambda line: (line["case"],)),
        "peers": _peers(done["peer"], draws),
        "distances": {
            line["case"]: {name: line[name] for name in ("texts", "mass", "variation", "effective", "drawn")}
            for line in done["distance"]
        },
        "invalid": [line for line in draws if line["valid"] is False],
        "failed": list({_key(line): line for line in failed}.values()),
    }


def _key(line: Line) -> tuple[str, str, int]:
    return line["case"], line["setting"], line["draw"]


def _by(draws: Sequence[Line], names_of: Callable[[Line], Iterable[str]]) -> dict[str, dict[str, Any]]:
    """The figures of each group and setting."""
    groups: dict[str, dict[str, list[Line]]] = {}
    for line in draws:
        for name in names_of(line):
            groups.setdefault(name, {}).setdefault(line["setting"], []).append(line)
    if ALL in groups:
        groups[ALL] = groups.pop(ALL)  # comes last
    return {name: {setting: _figures(own) for setting, own in settings.items()} for name, settings in groups.items()}


def _figures(draws: Sequence[Line]) -> dict[str, Any]:
    pairs = [line for line in draws if line.get("free", {}).get("bytes") == line["bytes"]]
    size = sum(line["bytes"] for line in pairs)
    free = [line["free"] for line in pairs]
    return {
        **_validity(draws),
        "pairs": len(pairs),
        "bytes": size,
        **{f"{name}_per_byte": _share(sum(line[name] for line in pairs), size) for name in COSTS},
        **{f"free_{name}_per_byte": _share(sum(each[name] for each in free), size) for name in COSTS},
        "calls_per_token": _each_token(pairs),
        "free_calls_per_token": _each_token(free),
        **{f"{name}_against_free": _against(pairs, name) for name in COSTS},
    }


def _validity(lines: Sequence[Line]) -> dict[str, int]:
    return {
        "cases": len({line["case"] for line in lines}),
        "completions": len(lines),
        "finished": sum(line["valid"] is not None for line in lines),
        "valid": sum(line["valid"] is True for line in lines),
    }


def _against(pairs: Sequence[Line], name: str) -> dict[str, float] | None:
    """What was taken under the constraint as a share of what was taken without, over cases."""
    sums: dict[str, tuple[float, float]] = {}
    for line in pairs:
        mine, free = sums.get(line["case"], (0.0, 0.0))
        sums[line["case"]] = mine + line[name], free + line["free"][name]
    if not any(free for _, free in sums.values()):
        return None
    return asdict(ratio_of(*(list(column) for column in zip(*sums.values(), strict=True))))


def _each_token(lines: Iterable[Line]) -> float | None:
    """Calls for a canonical token of the texts that were written."""
    written = [*lines]
    return _share(sum(line["calls"] for line in written), sum(line["tokens"] for line in written))


def _share(amount: float, size: int) -> float | None:
    return amount / size if size else None


def _peers(peers: Sequence[Line], draws: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """Each peer in each setting, and behind it bytelm in the same one, on the cases that both have written."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({line["setting"] for line in peers}):
        mine = {line["case"]: line for line in draws if line["setting"] == name.split(BY)[1] and line["draw"] == 0}
        theirs = {line["case"]: line for line in peers if line["setting"] == name}
        both = [case for case, line in theirs.items() if case in mine and line["finish"] != REFUSED]
        refused = {"refused": sum(line["finish"] == REFUSED for line in theirs.values())}
        found[name] = {**_taken([theirs[case] for case in both]), **refused}
        found[f"{BESIDE}{name}"] = {**_taken([mine[case] for case in both]), "refused": 0}
    return found


def _taken(lines: Sequence[Line]) -> dict[str, Any]:
    size = sum(line["bytes"] for line in lines)
    costs = {f"{name}_per_byte": _share(sum(line[name] for line in lines), size) for name in COSTS}
    return {**_validity(lines), "bytes": size, **costs, "calls_per_token": _each_token(lines)}


def show(summary: Summary, *, by: str = "kind") -> None:
    """Print the tables."""
    if groups := summary[f"{by}s"]:
        console().print(_table(groups, by))
    if summary["peers"]:
        console().print(_peers_table(summary["peers"]))
    if summary["distances"]:
        console().print(_distances_table(summary["distances"]))
        print_line(_distances_note(summary["distances"]))
    if by == "kind":
        note_too_few(summary["kinds"], "cases")
    left_out = sum(row["completions"] - row["pairs"] for row in summary["kinds"].get(ALL, {}).values())
    if left_out:
        print_line(f"Free texts that ended early: {left_out}. Those completions are in no figure of cost.")
    for line in summary["invalid"]:
        print_line(f"invalid: {line['case']}, {line['setting']}, draw {line['draw']}: {line['text'][:SHOWN]!r}")
    for line in summary["failed"]:
        print_line(f"failed: {line['case']}, {line['setting']}, draw {line['draw']}: {line['error']}")
    print_line(summary["command"])


def _table(groups: Mapping[str, Any], by: str) -> Any:
    columns = [by, "setting", "texts", "finished", "valid", "calls / byte", "calls / token", "calls / free's"]
    columns += ["fed / byte", "time"]
    made = table("under a constraint (and free: as many bytes without one)", columns, left=2)
    for name, settings in groups.items():
        for row, (setting, found) in enumerate(settings.items()):
            made.add_row(
                "" if row else name,
                setting,
                *(str(found[count]) for count in ("completions", "finished", "valid")),
                *(_beside_free(found, "calls_per_byte"), _beside_free(found, "calls_per_token")),
                _ratio(found["calls_against_free"]),
                *(_beside_free(found, "fed_per_byte"), _number(_mean(found["seconds_against_free"]))),
            )
        if by == "kind":
            made.add_section()
    return made


def _beside_free(found: Mapping[str, Any], cost: str) -> str:
    return f"{_number(found[cost])} ({_number(found[f'free_{cost}'])})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _mean(found: Mapping[str, float] | None) -> float | None:
    return None if found is None else found["mean"]


def _ratio(mean: Mapping[str, float] | None) -> str:
    return "-" if mean is None else interval(mean, digits=2)


def _peers_table(peers: Mapping[str, Any]) -> Any:
    columns = ["program", "setting", "refused", "cases", "finished", "valid", "bytes", "calls / token", "calls / byte"]
    made = table("beside other programs, on the same model and the same cases", columns, left=2)
    for name, found in peers.items():
        counts = (str(found[count]) for count in ("refused", "cases", "finished", "valid", "bytes"))
        costs = (_number(found[f"{cost}_per_{unit}"]) for cost, unit in PER)
        program, setting = name.split(BY)
        made.add_row("bytelm" if program.startswith(BESIDE) else program, setting, *counts, *costs)
        if program.startswith(BESIDE):
            made.add_section()
    return made


def _distances_table(distances: Mapping[str, Any]) -> Any:
    columns = ["case", "texts", "P(constraint)", "effective share", "masked law", *WAYS]
    made = table("total variation from the model's own law: of the law under the mask, and of draws", columns)
    for case, found in distances.items():
        made.add_row(
            case,
            str(found["texts"]),
            f"{found['mass']:.2g}",
            f"{found['effective']:.2f}",
            *(f"{value:.3f}" for value in (found["variation"], *(found["drawn"][way] for way in WAYS))),
        )
    return made


def _distances_note(distances: Mapping[str, Any]) -> str:
    sizes = sorted({(found["drawn"]["draws"], found["drawn"]["count"]) for found in distances.values()})
    told = ", ".join(f"{draws} draws of each kind, {count} particles" for draws, count in sizes)
    return f"{told}. chance: the mean of as many draws from the model's own law."


def plot(summary: Summary, path: Path) -> None:
    """Draw the costs of each kind and setting as bars.

    Raises:
        RecordsError: There is none, or the file cannot be written.
    """
    rows = {
        f"{kind}, {setting}": found
        for kind, settings in summary["kinds"].items()
        for setting, found in settings.items()
        if found["calls_against_free"] is not None
    }
    if not rows:
        raise nothing_to_draw(path)
    columns = {
        "calls / free's": [found["calls_against_free"]["mean"] for found in rows.values()],
        "tokens fed / free's": [found["fed_against_free"]["mean"] for found in rows.values()],
        "time / free's": [found["seconds_against_free"]["mean"] for found in rows.values()],
    }
    draw_bars(path, list(rows), columns, title="under a constraint, against as many bytes without one", line=1.0)
