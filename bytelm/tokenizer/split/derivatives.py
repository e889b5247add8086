r"""What has to be true of the text to come: conditions over the threads of a split pattern, and their derivatives.

Rules
    A *condition* speaks of the text after one place. It is put together from "some way on from instruction i matches"
    (``i`` is an ``atom`` instruction, so this looks at the next character) and "the text ends here".
    Reading one character turns a condition on the text here into one on the text after it (its *derivative*, after
    Brzozowski). Only the character's class counts (char_classes.py). A condition over finitely many instructions has
    finitely many derivatives up to the simplifications below, so each is worked out once and remembered.

    Conditions that say the same of every text may be written in many ways, and a pattern that looks ahead from each
    place makes ever longer ones. So the last step is to *minimise*: a condition and its derivatives are an automaton,
    and of conditions with the same smallest automaton the first stands for all. Only conditions that look at most
    `_FAR` instructions ahead and have at most `_MOST_DERIVATIVES` derivatives are minimised. The states of a pattern
    with others can be more than are followed (automaton.py).

    The *closure* of an instruction is the list of threads that can go on from it, in the order of preference in which a
    backtracking engine would try them, each under the condition that its look-arounds set. A turn of a loop that begins
    and ends without a character between is empty, and ends the loop.
"""

from __future__ import annotations

from typing import Any, Final

from bytelm.tokenizer.kept import kept
from bytelm.tokenizer.split.regex import Pattern

# bool | ("at", i) | ("end",) | ("not", f) | ("and" | "or", frozenset of conditions)
Condition = bool | tuple[Any, ...]

END: Final[Condition] = ("end",)
MATCH: Final = -1
_FAR: Final = 100  # instructions
_MOST_DERIVATIVES: Final = 500

# (instruction or MATCH, tag of the match, condition)
Thread = tuple[int, int, Condition]

# For each state: whether the text may end, and the state after a character of each class.
_Automaton = tuple[tuple[bool, tuple[int, ...]], ...]


def negation(f: Condition) -> Condition:
    """``not f``."""
    if isinstance(f, bool):
        return not f
    return f[1] if f[0] == "not" else ("not", f)


def conjunction(*fs: Condition) -> Condition:
    """``f and g and …``, flattened; False where a condition meets its negation."""
    return _join("and", fs, absorbing=False)


def disjunction(*fs: Condition) -> Condition:
    """``f or g or …``, flattened; True where a condition meets its negation."""
    return _join("or", fs, absorbing=True)


def _join(op: str, fs: tuple[Condition, ...], *, absorbing: bool) -> Condition:
    parts: set[Condition] = set()
    for f in fs:
        if isinstance(f, bool):
            if f is absorbing:
                return absorbing
        elif f[0] == op:
            parts |= f[1]
        else:
            parts.add(f)
    if not parts:
        return not absorbing
    if len(parts) == 1:
        return parts.pop()
    if any(negation(f) in parts for f in parts):
        return absorbing
    other = "or" if op == "and" else "and"
    # Absorption: a and (a or b) is a; a or (a and b) is a.
    kept = {f for f in parts if isinstance(f, bool) or f[0] != other or not any(g in parts for g in f[1])}
    return kept.pop() if len(kept) == 1 else (op, frozenset(kept))


class Threads:
    """A pattern's program, run character by character with every intermediate result remembered.

    ``before`` is the class of the character before the place in question, or -1 at the start of a piece; programs that
    do not look behind are always asked with -1, so that their states do not multiply.

    Args:
        pattern: The program.
        atoms_of: The atoms that contain the characters of each class.
    """

    def __init__(self, pattern: Pattern, atoms_of: list[frozenset[int]]) -> None:
        self.pattern = pattern
        self.atoms_of = atoms_of
        self._entangled: set[int] = set()  # instructions of conditions with too many derivatives
        none = ((False, (0,) * len(atoms_of)),)
        self._named: dict[_Automaton, Condition] = {none: False, ((True, none[0][1]),): True}

    @kept()
    def closure(self, at: int, before: int) -> tuple[Thread, ...]:
        """The threads that go on from an instruction, in order of preference."""
        threads: dict[Thread, None] = {}
        # An instruction, the condition on the way to it, and the loops of which a turn begins on the way.
        ahead: list[tuple[int, Condition, frozenset[int]]] = [(at, True, frozenset())]
        seen: set[tuple[int, Condition, frozenset[int]]] = set()
        while ahead:
            at, condition, turns = way = ahead.pop()
            if condition is False or way in seen:
                continue
            seen.add(way)
            step = self.pattern.code[at]
            if at in turns:
                ahead.append((step.arg, condition, turns - {at}))
                continue
            match step.op:
                case "atom" | "match":
                    threads[(at, -1, condition) if step.op == "atom" else (MATCH, step.arg, condition)] = None
                    continue
                case "look":
                    holds = self.can_match(step.arg, before)
                    condition = conjunction(condition, negation(holds) if step.negated else holds)
                case "behind":
                    condition = (
                        condition if (before >= 0 and step.arg in self.atoms_of[before]) != step.negated else False
                    )
                case "begin":
                    condition = condition if (before < 0) != step.negated else False
                case "end":
                    condition = conjunction(condition, END)
            begun = turns | {at} if step.op == "split" and step.arg >= 0 else turns
            ahead += [(to, condition, turns if to == step.arg else begun) for to in reversed(step.to)]
        return tuple(threads)

    def can_match(self, at: int, before: int) -> Condition:
        """Some way on from this instruction matches."""
        return disjunction(
            *(
                condition if i == MATCH else conjunction(condition, ("at", i))
                for i, _, condition in self.closure(at, before)
            )
        )

    @kept()
    def derive(self, f: Condition, char_class: int) -> Condition:
        """What ``f`` says of the text after the next character."""
        if isinstance(f, bool):
            return f
        match f[0]:
            case "end":
                return False
            case "at":
                step = self.pattern.code[f[1]]
                if step.arg not in self.atoms_of[char_class]:
                    return False
                return self.can_match(step.to[0], char_class if self.pattern.looks_behind else -1)
            case "not":
                return negation(self.derive(f[1], char_class))
            case "and":
                return conjunction(*(self.derive(g, char_class) for g in f[1]))
            case _:
                return disjunction(*(self.derive(g, char_class) for g in f[1]))

    @kept()
    def minimised(self, f: Condition) -> Condition:
        """The condition that stands for all that say what ``f`` says of every text; ``f`` if it looks too far."""
        if isinstance(f, bool) or f[0] in ("at", "end"):
            return f
        looked_at = instructions_of(f)
        if not looked_at.isdisjoint(self._entangled) or not all(map(self._is_near, looked_at)):
            return f
        rows: dict[Condition, tuple[Condition, ...]] = {}
        queue: list[Condition] = [f]
        for g in queue:
            if g not in rows:
                rows[g] = self._derivatives(g)
                queue += rows[g]
            if len(rows) > _MOST_DERIVATIVES:
                self._entangled |= looked_at
                return f
        return self._named.setdefault(_smallest_automaton(f, rows), f)

    @kept()
    def _derivatives(self, f: Condition) -> tuple[Condition, ...]:
        """`derive` for each class."""
        return tuple(self.derive(f, char_class) for char_class in range(len(self.atoms_of)))

    @kept()
    def _is_near(self, at: int) -> bool:
        """Whether few instructions can be reached from one."""
        seen = {at}
        for i in (queue := [at]):
            step = self.pattern.code[i]
            after = {*step.to, step.arg} if step.op == "look" else set(step.to)
            queue += after - seen
            seen |= after
            if len(seen) > _FAR:
                return False
        return True

    def step(self, threads: tuple[Thread, ...], char_class: int) -> tuple[Thread, ...]:
        """Threads that are about to read a character, after it; none beyond an unconditional match."""
        before = char_class if self.pattern.looks_behind else -1
        out: list[Thread] = []
        seen: set[tuple[int, int]] = set()
        for at, _, condition in threads:
            step = self.pattern.code[at]
            if step.arg not in self.atoms_of[char_class]:
                continue
            left = self.derive(condition, char_class)
            if left is False:
                continue
            for target, tag, extra in self.closure(step.to[0], before):
                joint = self.minimised(conjunction(left, extra))
                if joint is False or (target, tag) in seen:
                    continue
                if joint is True:
                    seen.add((target, tag))
                if (target, tag, joint) not in out:
                    out.append((target, tag, joint))
                if target == MATCH and joint is True:
                    return tuple(out)
        return tuple(out)


def instructions_of(f: Condition) -> set[int]:
    """The instructions from which a condition looks at the next character."""
    if isinstance(f, bool) or f[0] == "end":
        return set()
    if f[0] == "at":
        return {f[1]}
    return set().union(*map(instructions_of, [f[1]] if f[0] == "not" else f[1]))


def _smallest_automaton(f: Condition, rows: dict[Condition, tuple[Condition, ...]]) -> _Automaton:
    """What a condition says of every text, after Moore: of the conditions among ``rows``, those alike are one state.

    The states are numbered in the order in which the classes lead to them.
    """
    place = {g: i for i, g in enumerate(rows)}  # by numbers from here on: a condition is slow to hash
    after = [[place[h] for h in row] for row in rows.values()]
    ends = [holds_at_end(g) for g in rows]
    part = [int(end) for end in ends]
    size = 0
    while size < (size := len(set(part))):
        numbers: dict[tuple[int, ...], int] = {}
        part = [numbers.setdefault((part[i], *[part[j] for j in row]), len(numbers)) for i, row in enumerate(after)]
    example = {number: i for i, number in enumerate(part)}
    order = {part[place[f]]: 0}
    states = []
    for number in (queue := [part[place[f]]]):
        i = example[number]
        for j in after[i]:
            if part[j] not in order:
                order[part[j]] = len(order)
                queue.append(part[j])
        states.append((ends[i], tuple(order[part[j]] for j in after[i])))
    return tuple(states)


def holds_at_end(f: Condition) -> bool:
    """Whether ``f`` holds where the text ends."""
    if isinstance(f, bool):
        return f
    match f[0]:
        case "end":
            return True
        case "at":
            return False
        case "not":
            return not holds_at_end(f[1])
        case "and":
            return all(holds_at_end(g) for g in f[1])
        case _:
            return any(holds_at_end(g) for g in f[1])


def match_conditions(threads: tuple[Thread, ...]) -> dict[int, Condition]:
    """For each tag, what has to hold for its match to end exactly here: it matches and all preferred threads fail."""
    better_fail: Condition = True
    won: dict[int, Condition] = {}
    for at, tag, condition in threads:
        if at == MATCH:
            won[tag] = disjunction(won.get(tag, False), conjunction(better_fail, condition))
            better_fail = conjunction(better_fail, negation(condition))
        else:
            better_fail = conjunction(better_fail, negation(conjunction(condition, ("at", at))))
    return won


def still_reading(threads: tuple[Thread, ...]) -> tuple[Thread, ...]:
    """The threads that can still read, given that no match ends here: those behind a match need it to fail."""
    unmatched: Condition = True
    out: list[Thread] = []
    for at, tag, condition in threads:
        if at == MATCH:
            unmatched = conjunction(unmatched, negation(condition))
        else:
            joint = conjunction(condition, unmatched)
            if joint is not False:
                out.append((at, tag, joint))
    return tuple(out)
