"""What runs inside vLLM's own processes on a CPU: its prefix cache to the token, where it has whole blocks alone.

Theory of operation
    vLLM finds what a sequence shares with earlier ones by whole blocks of its cache, on a CPU of 32 tokens at least.
    The sequences that bytes ask for part anywhere: each would be fed half a block again on the average.
    The keys and values of a position are written once. So a sequence that parts from another inside a block may begin
    with a copy of that block, and go on writing in it where the two part: a copy takes the time of no token.
    vLLM has a place for it, its *KV connector*. The half of it that lives in the scheduler is asked how many tokens,
    beyond the whole blocks, there are elsewhere; here elsewhere is a block of the same cache. The half in each worker
    is told which blocks to copy, before the step is computed.

Rules
    Donors are the sequences under way, as far as earlier steps have computed them, and of the `ENDED` that ended last
    their last two blocks. A block is never held back from vLLM: after the end of its sequence it stays readable until
    vLLM gives it to another one, and vLLM tells of that (``BlockPool.unpin_blocks``).
    A donor has the same hash of the whole blocks before, and so the same tokens, and then the longest part in common.
    The last token of a sequence is fed, whatever is there: its row is what is wanted.
    Of sequences that begin together and share `WORTH` tokens or more, one begins and the others wait for a step.

Invariant
    All blocks of a step are read before one is written, and both before the step is computed. So a block that is copied
    may be given to another sequence in the same step, and none is copied that is only written in it.

Does not
    Share recurrent states, or caches whose groups of layers have blocks of several sizes. GPUs: their blocks have 16
    tokens, which cost them next to nothing, and lie in memory in other ways.

Interfaces
    vLLM's ``kv_transfer_config`` with a ``kv_connector_module_path``. This module imports vLLM, so only vLLM's
    processes import it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import AttentionSpec

ENDED: Final = 256  # sequences that have ended, and may still be donors
WORTH: Final = 8  # tokens that a step more is worth: on a CPU it costs as much as 10 to 20

Blocks: TypeAlias = tuple[int, ...]  # one of each group of layers


class _Donor(NamedTuple):
    """A sequence whose blocks may be copied.

    Attributes:
        request: vLLM's.
        computed: Tokens whose keys and values are there.
        blocks: By their place in the sequence, where it has ended; None where vLLM knows them.
    """

    request: Any
    computed: int
    blocks: dict[int, Blocks] | None = None


class _Found(NamedTuple):
    """What to begin a sequence with: blocks, their place in the sequence, and the tokens that they save."""

    blocks: Blocks
    place: int
    tokens: int


@dataclass
class Copies(KVConnectorMetadata):  # type: ignore[misc] # vLLM publishes no types to those who do without it
    """What the workers are to copy: for each group of layers, from which blocks to which."""

    by_group: list[tuple[list[int], list[int]]] = field(default_factory=list)


class TailSharer(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Both halves of the connector; vLLM makes one for its scheduler and one for each worker."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._groups: list[Any] = kv_cache_config.kv_cache_groups
        self._block_size = int(vllm_config.cache_config.block_size)
        self._shares = all(
            isinstance(group.kv_cache_spec, AttentionSpec) and group.kv_cache_spec.block_size == self._block_size
            for group in self._groups
        )
        self._pool: Any = None
        self._going: dict[str, Any] = {}  # vLLM's requests, by their ids
        self._begun: dict[str, Any] = {}  # those of them that the next step is the first of
        self._ended: deque[_Donor] = deque(maxlen=ENDED)
        self._held: list[Any] = []  # blocks of sequences that ended since the last step
        self._found: dict[str, _Found] = {}
        self._copies = Copies([([], []) for _ in self._groups])
        self._caches: list[list[torch.Tensor]] = []

    # ---- in the scheduler

    @property
    def requires_kv_delivery(self) -> bool:
        """False: what is not found is computed."""
        return False

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        """Note where vLLM keeps its blocks."""
        self._pool = gpu_block_pool

    def on_new_request(self, request: Any) -> None:
        """Note a sequence that begins."""
        self._going[request.request_id] = request

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """How many tokens beyond the whole blocks a copy saves; None to be asked again at the next step.

        Nothing is copied while other steps go on: False.
        """
        self._let_go()
        if not self._shares:
            return 0, False
        end = min(request.num_tokens - 1, num_computed_tokens + self._block_size)
        found = self._longest(request, num_computed_tokens, end)
        tokens = found.tokens if found else 0
        if any(
            self._common(request, begun, num_computed_tokens, end) >= tokens + WORTH for begun in self._begun.values()
        ):
            return None, False
        if found:
            self._found[request.request_id] = found
        return tokens, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note the copy, now that the block to write to is known."""
        self._begun[request.request_id] = request
        found = self._found.pop(request.request_id, None)
        if found is not None and num_external_tokens:
            for (sources, targets), source, own in zip(
                self._copies.by_group, found.blocks, blocks.get_block_ids(), strict=True
            ):
                sources.append(source)
                targets.append(own[found.place])

    def build_connector_meta(self, _scheduler_output: Any) -> Copies:
        """What the workers are to copy in this step."""
        self._let_go()
        self._begun.clear()
        copies, self._copies = self._copies, Copies([([], []) for _ in self._groups])
        return copies

    def request_finished_all_groups(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, None]:
        """Keep the last blocks of a sequence readable for a while. vLLM frees them: False."""
        self._going.pop(request.request_id, None)
        self._found.pop(request.request_id, None)
        computed = _computed(request)
        if self._shares and computed:
            last = (computed - 1) // self._block_size
            places = range(max(0, last - 1), last + 1)
            blocks = {place: found for place in places if (found := self._there(block_ids, place))}
            held = [self._pool.blocks[block] for found in blocks.values() for block in found]
            self._pool.touch(held)
            self._held += held
            self._ended.append(_Donor(request, computed, blocks))
        return False, None

    def reset_cache(self) -> bool:
        """Hold no block, and let no sequence begin with what was there: vLLM's cache is to be cleared."""
        self._let_go()
        self._ended.clear()
        return True

    def _let_go(self) -> None:
        """Let vLLM have the blocks of sequences that ended, after all others that are free.

        Not when they end: vLLM frees them just after that, and would take the part of a block before any other.
        """
        if self._held:
            held, self._held = self._held, []
            self._pool.unpin_blocks(held, self._lost)

    def _lost(self, block: Any) -> None:
        """Forget a block that vLLM gives to another sequence."""
        for donor in self._ended:
            ours = donor.blocks or {}
            for place in [place for place, blocks in ours.items() if block.block_id in blocks]:
                del ours[place]

    def _there(self, block_ids: Sequence[Sequence[int]], place: int) -> Blocks | None:
        """The blocks at a place in a sequence, if every group of layers has one: windows leave earlier ones behind."""
        blocks = tuple(group[place] for group in block_ids if place < len(group))
        return None if len(blocks) < len(block_ids) or self._pool.null_block.block_id in blocks else blocks

    def _longest(self, request: Any, start: int, end: int) -> _Found | None:
        """What has most of a sequence's tokens from `start` on, a whole number of blocks, before `end`."""
        place = start // self._block_size
        best: _Found | None = None
        for donor in self._donors():
            tokens = self._common(request, donor.request, start, min(donor.computed, end))
            if tokens > (best.tokens if best else 0) and (blocks := self._of(donor, place)):
                best = _Found(blocks, place, tokens)
                if tokens == end - start:
                    break
        return best

    def _donors(self) -> Iterator[_Donor]:
        for name, request in self._going.items():
            if name not in self._begun:  # what these have copied is not there before the step
                yield _Donor(request, _computed(request))
        yield from reversed(self._ended)

    def _of(self, donor: _Donor, place: int) -> Blocks | None:
        if donor.blocks is None:
            return self._there(self._kv_cache_manager.get_block_ids(donor.request.request_id), place)
        return donor.blocks.get(place)

    def _common(self, request: Any, other: Any, start: int, end: int) -> int:
        """Tokens from `start` on that two sequences share, if they share all before."""
        hashed = start // self._pool.hash_block_size
        if hashed and request.block_hashes[hashed - 1 : hashed] != other.block_hashes[hashed - 1 : hashed]:
            return 0
        pairs = zip(request.all_token_ids[start:end], other.all_token_ids[start:end], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    # ---- in a worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Note the caches of this worker's layers, with blocks as the first axis.

        Raises:
            RuntimeError: The blocks are not the first axis.
        """
        count = self._kv_cache_config.num_blocks
        for group in self._groups:
            caches = [kv_caches[name] for name in group.layer_names if name in kv_caches]
            for cache in caches if self._shares else ():
                if cache.shape[0] % count:
                    raise RuntimeError(f"a cache of {count} blocks has the shape {tuple(cache.shape)}")
            self._caches.append([cache.unflatten(0, (count, -1)) for cache in caches] if self._shares else [])

    def start_load_kv(self, _forward_context: Any, **_: Any) -> None:
        """Copy."""
        for caches, (sources, targets) in zip(self._caches, self._get_connector_metadata().by_group, strict=True):
            if sources:
                read, write = torch.tensor(sources), torch.tensor(targets)
                for cache in caches:
                    cache[write] = cache[read]

    def wait_for_layer_load(self, _layer_name: str) -> None:
        """Nothing: the copies are made."""

    def save_kv_layer(self, *_: Any, **__: Any) -> None:
        """Nothing: donors are where they were computed."""

    def wait_for_save(self) -> None:
        """Nothing."""


def _computed(request: Any) -> int:
    """Tokens of a sequence that are known, and whose keys and values are there before the next step."""
    return min(int(request.num_computed_tokens), int(request.num_tokens))
