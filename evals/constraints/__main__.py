"""Writing under a constraint: validity, cost and distance from the model's law: ``python -m evals.constraints``.

    Each case of cases.py is completed under its constraint, greedily once, and `--draws` times at temperature 1 and with
    top-p 0.9. Beside each completion the same model writes as many bytes after the same prompt without a constraint,
    in the same setting and with the same seed. A validator that shares no code with the constraint reads what is
    finished. What was cut at `--bytes` is not finished, and neither valid nor invalid.

Cost
    Model calls, tokens fed and wall time, from empty caches (report/clocked.py). The prompt is included on both sides.
    The making of a constraint is not: it is done once for each.

More parts
    ``--distance``: the law under the mask against the model's own, where the texts can be listed, and draws under the
    mask, exact ones and those by particles (distance.py).
    ``--peers``: other programs on the same cases, greedily and at temperature 1, once each (programs.py). A program whose
    packages are not in this environment runs in one of its own, which goes on with the file.

Resuming
    Each completion is a line of ``--out``, written when it is done. The same command with ``--resume`` runs what is
    missing. It also accepts more cases, more draws, and the other parts. The tables: summary.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bytelm import ByteLM, Constraint, SamplingParams
from bytelm.errors import BytelmError, MissingDependencyError
from evals.constraints import summary as constraints_summary
from evals.constraints.cases import KINDS, Case, digest, read_cases
from evals.constraints.distance import distance_of, drawn_of
from evals.constraints.peers import Peer, RefusedError
from evals.constraints.programs import PEERS
from evals.constraints.summary import BY, DRAWN, GREEDY
from evals.report.clocked import Used, metered
from evals.report.command import add_engine_options, at_least, chosen, command, set_threads, words_of
from evals.report.progress import tracked
from evals.report.records import Line, command_of, exit_status, kept_lines, read_records
from evals.report.surroundings import processor, versions

SETTINGS: Final[Mapping[str, SamplingParams]] = MappingProxyType(
    {GREEDY: SamplingParams(temperature=0), DRAWN: SamplingParams(), "top-p": SamplingParams(top_p=0.9)}
)
NEEDED: Final = ("llguidance", "jsonschema", "regex")
FINISHED: Final = ("eot", "stop")
Job = tuple[str, str, int]  # the case, what is done with it, and which time


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options, checked as far as they can be without a model."""
    parser = command("evals.constraints", __doc__)
    add = parser.add_argument
    add("-m", "--model", default="demo", help="a folder, a hub id, or a packaged model (default demo)")
    add("--kinds", default=",".join(KINDS), metavar="KIND,…", help=f"of {', '.join(KINDS)} (default all)")
    add("--limit", type=int, metavar="N", help="the first cases only")
    add("--settings", default=",".join(SETTINGS), metavar="NAME,…", help=f"of {', '.join(SETTINGS)} (default all)")
    add("--draws", type=int, default=8, metavar="N", help="of a case in each setting that draws (default 8)")
    add("--bytes", type=int, default=256, metavar="N", help="at most, of a completion (default 256)")
    add("--seed", type=int, default=0, help="of the draws")
    add("--distance", action="store_true", help="compare the laws of drawing with the model's own")
    add("--texts", type=int, default=1000, metavar="N", help="with --distance: draws of each law (default 1000)")
    add("--particles", type=int, default=8, metavar="N", help="with --distance: of a draw by particles (default 8)")
    add("--peers", metavar="NAME,…", help=f"other programs on the same cases: {', '.join(PEERS)}")
    add_engine_options(parser)
    add("--out", type=Path, metavar="FILE", help="the results file, a line a completion")
    add("--resume", action="store_true", help="go on with --out where it ended")
    add("--read", type=Path, metavar="FILE", help="show this results file and run nothing")
    add("--by", choices=["kind", "case"], default="kind", help="a row of the table for each (default kind)")
    add("--plot", type=Path, metavar="FILE", help="draw the costs (.png, .svg, .pdf)")
    add("--json", action="store_true", help="print the summary as JSON")
    options = parser.parse_args(arguments)
    at_least(parser, options, "limit", "draws", "bytes", "threads", "texts", "particles")
    at_least(parser, options, "seed", least=0)
    options.kinds = chosen(parser, "kind", options.kinds, KINDS)
    options.settings = chosen(parser, "setting", options.settings, [*SETTINGS])
    options.peers = chosen(parser, "peer", options.peers, [*PEERS]) if options.peers else []
    if options.peers and not {GREEDY, DRAWN} & {*options.settings}:
        parser.error(f"--peers are shown beside our completions: name {GREEDY} or {DRAWN} in --settings")
    if options.resume and options.out is None:
        parser.error("--resume goes on with a file: name it with --out")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, or show what was run; 1 when something failed or a finished text is invalid."""
    words = words_of(arguments)
    options = parsed(words)
    return exit_status(lambda: _main(options, words), options.out)


def _main(options: argparse.Namespace, words: Sequence[str]) -> int:
    header, lines = read_records(options.read) if options.read else run(options, words)
    summary = constraints_summary.of(header, lines)
    print(json.dumps(summary, indent=1)) if options.json else constraints_summary.show(summary, by=options.by)
    if options.plot:
        constraints_summary.plot(summary, options.plot)
    return 1 if summary["failed"] or summary["invalid"] else 0


def run(options: argparse.Namespace, words: Sequence[str]) -> tuple[Line, list[Line]]:
    """Run what is missing; the header and all lines.

    Raises:
        BytelmError: A package is missing, or the model cannot be loaded.
    """
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        raise MissingDependencyError(f"{', '.join(absent)} missing: pip install --group evals, in the checkout")
    cases = [case for case in read_cases() if case.kind in options.kinds][: options.limit]
    set_threads(options.threads)
    lm = ByteLM.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    header = header_of(options, lm, words)
    by_id = {case.id: case for case in cases}
    with kept_lines(options.out, header, resume=options.resume) as records:
        done = {_job_of(line) for line in records.lines if line["kind"] != "failed"}
        missing = [job for job in jobs(cases, options) if job not in done]
        lm.sample("a", max_bytes=1)  # what is set up once is no part of the first case
        bench = Bench(lm, most=options.bytes, seed=options.seed, texts=options.texts, particles=options.particles)
        for name, setting, draw in tracked(missing, "completions"):
            records.add(bench.attempt(by_id[name], setting, draw))
    return {"kind": "header", **header}, records.lines


def jobs(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[Job]:
    """All that the options ask for, a case after the other."""
    for case in cases:
        for setting in options.settings:
            yield from ((case.id, setting, draw) for draw in range(1 if setting == GREEDY else options.draws))
        for peer in options.peers:
            for setting in (GREEDY, DRAWN):
                if setting in options.settings and not (PEERS[peer].draws_alone and setting == GREEDY):
                    yield case.id, f"{peer}{BY}{setting}", 0
        if options.distance and case.distance:
            yield case.id, "distance", 0


def _job_of(line: Line) -> Job:
    return line["case"], line["setting"], line["draw"]


class Bench:
    """A model with what is made of the cases, each once.

    Args:
        lm: The model.
        most: Bytes of a completion, at most.
        seed: Of the draws.
        texts: Draws of each law, for a distance.
        particles: Of those by particles.
    """

    def __init__(self, lm: ByteLM, *, most: int, seed: int, texts: int, particles: int) -> None:
        self._lm, self._most, self._seed = lm, most, seed
        self._texts, self._particles = texts, particles
        self._constraints: dict[str, Constraint] = {}
        self._peers: dict[str, Peer] = {}

    def attempt(self, case: Case, setting: str, draw: int) -> Line:
        """The line of a job, or why it failed."""
        about = {"case": case.id, "of": case.kind, "setting": setting, "draw": draw}
        try:
            if setting == "distance":
                return {"kind": "distance", **about, **self.distance(case)}
            if BY in setting:
                return {"kind": "peer", **about, **self.by_peer(case, setting, draw)}
            return {"kind": "draw", **about, **self.drawn(case, setting, draw)}
        except BytelmError as error:
            print(f"{case.id}, {setting}: {error}", file=sys.stderr)
            return {"kind": "failed", **about, "error": str(error)}

    def constraint(self, case: Case) -> Constraint:
        """The constraint of a case."""
        if case.id not in self._constraints:
            self._constraints[case.id] = case.constraint()
        return self._constraints[case.id]

    def drawn(self, case: Case, setting: str, draw: int) -> Line:
        """A completion under the constraint, and one of as many bytes without."""
        constraint, params, seed = self.constraint(case), SETTINGS[setting], self._seed + draw
        with metered(self._lm.engines) as used:
            done = self._lm.sample(case.prompt, params=params, seed=seed, constraint=constraint, max_bytes=self._most)
        found = self._told(case, done.bytes, used, done.finish_reason)
        if done.bytes:
            with metered(self._lm.engines) as used:
                free = self._lm.sample(case.prompt, params=params, seed=seed, max_bytes=len(done.bytes))
            found["free"] = self._cost(free.bytes, used)
        return found

    def by_peer(self, case: Case, named: str, draw: int) -> Line:
        """A completion by another program, or that it cannot make the constraint."""
        peer, setting = named.split(BY)
        if peer not in self._peers:
            self._peers[peer] = PEERS[peer](self._lm)
        program = self._peers[peer]
        try:
            made = program.made(case)
        except RefusedError as error:
            return {"finish": "refused", "valid": None, "why": str(error)}
        with metered(self._lm.engines) as used, program.counted() as beside:
            greedy, seed = setting == GREEDY, self._seed + draw
            written = program.complete(made, case.prompt, self._most, greedy=greedy, seed=seed)
        used.calls, used.fed = used.calls + beside.calls, used.fed + beside.fed
        return self._told(case, written.bytes, used, written.finish)

    def _told(self, case: Case, written: bytes, used: Used, finish: str) -> Line:
        """What a line says of a completion; it is valid or not only where it is finished."""
        text = written.decode(errors="replace")
        valid = case.valid(text) if finish in FINISHED else None
        return {"finish": finish, "valid": valid, **self._cost(written, used), "text": text}

    def _cost(self, written: bytes, used: Used) -> Line:
        """What a text took, and its size in bytes and in canonical tokens, encoded by itself."""
        tokens = len(self._lm.viability.vocab.encode(written.decode(errors="ignore")))
        spent = {"calls": used.calls, "fed": used.fed, "seconds": round(used.seconds, 4)}
        return {"bytes": len(written), "tokens": tokens, **spent}

    def distance(self, case: Case) -> Line:
        """The laws of a case, and draws from them."""
        prompt, constraint = case.prompt.encode(), self.constraint(case)
        found = distance_of(self._lm, prompt, constraint)
        drawn = drawn_of(
            self._lm,
            prompt,
            constraint,
            {text: own for text, (own, _) in found.texts.items()},
            draws=self._texts,
            count=self._particles,
            seed=self._seed,
        )
        return {
            "texts": len(found.texts),
            "mass": found.mass,
            "variation": found.variation,
            "effective": found.effective,
            "drawn": drawn.told(),
        }


def header_of(options: argparse.Namespace, lm: ByteLM, words: Sequence[str]) -> Line:
    """What a results file says of its run. No path of the machine is in it."""
    model: Any = getattr(lm.token_lm, "model", None)
    return {
        "command": command_of("evals.constraints", words),
        "settings": {
            "model": Path(options.model).name,
            "fingerprint": lm.fingerprint(),
            "cases": digest(),
            "bytes": options.bytes,
            "seed": options.seed,
            "dtype": str(getattr(model, "dtype", None)),
        },
        "versions": versions(*NEEDED, python=True),
        "device": str(getattr(model, "device", None)),
        "machine": processor(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    sys.exit(main())
