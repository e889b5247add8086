r"""Weighted texts in place of exact ones: several at once, each worth what it stands for (sequential Monte Carlo).

The law
    That of conditioned.py: a text in proportion to its probability, among the texts that the constraint allows. In an
    ensemble with ``level="string"`` in proportion to what it makes of its members' probabilities of the whole text.
    Particles approach that law as their number grows. They do not have it: `Particles` says what they are.

Theory of operation
    Each particle writes its own text. At a place x the row has the sum S(x) over what is allowed. The particle's weight
    is multiplied by S(x), and a symbol b is drawn with P(b | x) / S(x). So for each text y the chance to draw it, times
    its weight, is P(y). The mean weight of N particles is an unbiased estimate of the sum of P over all allowed texts.
    A particle without a way on has weight 0. Where few particles hold most of the weight, as many are drawn anew from
    among them in proportion to their weights, and each has the mean weight from then on. That leaves the estimate
    unbiased, whatever makes one do it. It is done before the symbols are drawn, so that copies part at once.
    What a constraint forces is written without a row, as everywhere. It counts by the mass of the text behind it.

Cost
    A row in full for each particle and each byte that is not forced. Particles share calls, and copies share rows.

Source
    Sequential Monte Carlo for language models under constraints: arXiv:2504.13139 and 2504.05410; over bytes with
    ensembles of whole texts: arXiv:2603.05432. Unbiased with resampling by need: Whiteley, Lee and Heine, Bernoulli 22
    (2016). Systematic resampling: Kitagawa, JCGS 5 (1996).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from bytelm.errors import BudgetError, UnreachablePrefixError
from bytelm.inference.scheduler import Step, changed, together
from bytelm.sampling.completion import Completion, Particles
from bytelm.sampling.constrained import Binding
from bytelm.sampling.draw import drawn
from bytelm.sampling.params import SamplingParams, binding_for
from bytelm.sampling.place import Place
from bytelm.sampling.writing import PlacedGeneration, Writing
from bytelm.symbols import EOT, SYMBOLS


class _Particle:
    """One text on its way.

    Args:
        place: At its end. Copies of a particle share it once it is evaluated.
        binding: The constraint there.
        writing: What is written.

    Attributes:
        place: As given.
        binding: As given.
        writing: As given.
        log_weight: The logarithm of its weight.
    """

    def __init__(self, place: Place, binding: Binding, writing: Writing) -> None:
        self.place, self.binding, self.writing = place, binding, writing
        self.log_weight = 0.0
        self._counted = place.mass()[0]  # the log-mass of the text, as far as the weight has it
        self._row = np.zeros(SYMBOLS)
        self._forced = False  # whether more was written since

    def copy(self, log_weight: float) -> _Particle:
        """The same with another weight, to go its own way."""
        twin = copy.copy(self)
        twin.binding, twin.writing = self.binding.copy(), copy.deepcopy(self.writing)
        twin.log_weight = log_weight
        return twin

    @property
    def open(self) -> bool:
        """Whether it goes on."""
        return self.writing.finish_reason is None and self.log_weight > -math.inf

    def end(self) -> Step[None]:
        """End the text, where it ends here."""
        if self.writing.full:
            self.writing.finish_reason = "length"
        elif self.binding.done:
            self.writing.finish_reason = "stop"
        elif self.place.room() < 0:
            self.writing.finish_reason = "length"
        if self.writing.finish_reason is not None and self._forced:
            self._count((yield from self.place.measured(end=False)))

    def weigh(self) -> None:
        """Multiply the weight by all that may be written next, once the place is evaluated."""
        place = self.place
        self._count(place.mass()[0])
        self._row = place.row()
        whole = float(self._masses().sum())
        self.log_weight += math.log(whole) if whole > 0 else -math.inf

    def _masses(self) -> Float64[np.ndarray, "257"]:
        masses: Float64[np.ndarray, "257"] = np.exp(self._row) * self.binding.mask()
        return masses

    def draw(self, uniform: float) -> None:
        """Write a symbol, and what the constraint leaves as the only way on behind it."""
        masses = self._masses()
        symbol = drawn(uniform, masses / masses.sum())
        self.writing.drew(self.place)
        self._counted += float(self._row[symbol])
        if symbol == EOT:
            self.writing.finish_reason = "eot"
            return
        self._write(bytes([symbol]), self.place.advance(bytes([symbol])))
        if self.open and (forced := self.binding.forced()[: self._most()]):
            try:
                behind = self.place.advance(forced)
            except UnreachablePrefixError:
                self.log_weight = -math.inf
                return
            if not behind.lost_mass:
                self._write(forced, behind)
                self._forced = True

    def _most(self) -> int:
        """How many bytes may be written before a row is needed, as far as the context goes."""
        room = self.place.room()
        return 0 if room < 0 else int(min(self.writing.left, max(room, 1)))

    def _write(self, data: bytes, behind: Place) -> None:
        """Write some bytes, behind which a place is, as far as the text goes."""
        for at, byte in enumerate(data, start=1):
            self.binding.advance(byte)
            self.writing.write(byte)
            if self.writing.finish_reason is not None:
                self.place = behind if at == len(data) else self.place.advance(data[:at])
                return
        self.place = behind

    def _count(self, log_mass: float) -> None:
        """Multiply the weight by what was written without a draw."""
        self.log_weight += log_mass - self._counted
        self._counted, self._forced = log_mass, False


class ParticleGeneration(PlacedGeneration):
    """A completion that is picked from several, by their weights. A step adds a byte or more to each.

    It has the arguments and attributes of `PlacedGeneration`. The params say how many particles, and have no filters.

    Raises:
        ConstraintError: The prompt violates the constraint.
    """

    def __init__(
        self,
        place: Place,
        params: SamplingParams,
        random: np.random.Generator,
        score: Callable[[bytes, bool], Step[float]],
    ) -> None:
        super().__init__(place, params, random, score)
        self._binding = binding_for(params, self.prompt)
        self._particles: list[_Particle] = []
        self._resamplings = 0

    def step(self) -> Step[None]:
        """Move all particles on; when each has ended, pick one.

        Raises:
            BudgetError: None of them found a text that the constraint allows.
        """
        if not self._particles:
            yield from self.place.begin()
            root = _Particle(self.place.copy(), self._binding, Writing(self.params))
            self._start = root.place.mass()[0]
            self._root = root.place
            self._particles = [root.copy(0.0) for _ in range(self.params.particles or 1)]
        longest = max(len(particle.writing.bytes) for particle in self._particles)
        yield from changed(self._round(), lambda request: replace(request, done=longest / self.params.max_bytes))
        if not self._open():
            self._pick()

    def _round(self) -> Step[None]:
        """One symbol for each particle that goes on."""
        yield from together([particle.end() for particle in self._open()])
        places: dict[bytes, Place] = {}  # those that have written the same share what is evaluated
        for particle in self._open():
            particle.place = places.setdefault(particle.place.prefix, particle.place)
        yield from together([place.evaluate_all() for place in places.values()])
        for particle in self._open():
            particle.weigh()
        self._see_one_is_left()
        if self._open():
            self._resample()
        open_ = self._open()
        for particle, uniform in zip(open_, self._random.random(len(open_)).tolist(), strict=True):
            particle.draw(uniform)
        self._see_one_is_left()

    def _open(self) -> list[_Particle]:
        return [particle for particle in self._particles if particle.open]

    def _see_one_is_left(self) -> None:
        if all(particle.log_weight == -math.inf for particle in self._particles):
            written = max((particle.place.prefix for particle in self._particles), key=len)
            raise BudgetError(
                f"none of {len(self._particles)} particles found a text that is allowed: the last one came to "
                f"{written[-40:]!r}, after which nothing allowed has any probability. Give more particles"
            )

    def _resample(self) -> None:
        """Where few particles hold most of the weight, draw as many from among them."""
        count = len(self._particles)
        known = Particles((), self._log_weights(), 0)
        if known.effective_sample_size >= count / 2:
            return
        edges = np.cumsum(known.weights)
        places = (self._random.random() + np.arange(count)) / count
        chosen = np.minimum(np.searchsorted(edges, places, side="right"), np.flatnonzero(known.weights)[-1])
        self._particles = [self._particles[i].copy(known.log_mass) for i in chosen.tolist()]
        self._resamplings += 1

    def _log_weights(self) -> Float64[np.ndarray, " n"]:
        return np.array([particle.log_weight for particle in self._particles])

    def _pick(self) -> None:
        """End with a particle, drawn by the weights."""
        texts = tuple(bytes(particle.writing.bytes) for particle in self._particles)
        self._told = Particles(texts, self._log_weights(), self._resamplings)
        edges = np.cumsum(self._told.weights)
        at = min(int(np.searchsorted(edges, self._random.random(), side="right")), len(edges) - 1)
        picked = self._particles[at].writing
        self.bytes, self.leak = picked.bytes, picked.leak
        self.place = self._root.advance(texts[at]) if texts[at] else self._root
        self.finish_reason = picked.finish_reason
        self._particles = []

    def completion(self) -> Step[Completion]:
        """What was written, scored, after the last step; with all particles."""
        done = yield from self._scored()
        return replace(done, particles=self._told)
