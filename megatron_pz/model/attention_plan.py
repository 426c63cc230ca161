"""Plan the kernel calls that compute the attention of a packed sequence, and the tokens that each call reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """Queries of one kernel call: tokens of this rank that lie in one run of the packed sequence."""

    length: int
    """Number of queries: the run's last ones up to ``end``."""
    run: int
    """Index of the run that they belong to."""
    end: int
    """The queries attend to the run's first ``end`` keys, each up to itself."""
    prompt: int | None
    """Index of the prompt's run, to which they attend in full; None for the tokens of a prompt."""


@dataclass(frozen=True)
class AttentionPlan:
    """The runs of a packed sequence (a prompt or one response each), and this rank's share of the queries."""

    run_lengths: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Call:
    """One kernel call: a single piece, or several whole short responses to one prompt, padded to one length."""

    pieces: tuple[Piece, ...]

    @property
    def longest(self) -> int:
        """Return the number of tokens of the longest piece."""
        return max(piece.length for piece in self.pieces)


@dataclass(frozen=True)
class Gather:
    """Token indices of the calls with several pieces, call after call, with each piece padded."""

    queries: Tensor
    """int64 indices into this rank's tokens; padding repeats a piece's first token."""
    keys: Tensor
    """int64 indices into the packed sequence."""
    back: Tensor
    """int64 [s]: for each of this rank's tokens its index in the concatenated outputs of all calls."""


def plan_of_runs(runs: Sequence[tuple[int, bool]], own: Sequence[range]) -> AttentionPlan:
    """Plan the attention of a packed sequence.

    Args:
        runs: the sequence from left to right, as (number of tokens, True for a prompt).
        own: the tokens whose queries this rank computes, in order.

    >>> plan_of_runs([(4, True), (3, False)], [range(2, 6)]).pieces
    (Piece(length=2, run=0, end=4, prompt=None), Piece(length=2, run=1, end=2, prompt=0))
    """
    lengths = [length for length, _ in runs]
    starts = list(accumulate(lengths, initial=0))
    pieces = []
    for tokens in own:
        prompt = None
        for number, (length, is_prompt) in enumerate(runs):
            prompt = number if is_prompt else prompt
            first, last = max(tokens.start, starts[number]), min(tokens.stop, starts[number] + length)
            if first < last:
                pieces.append(Piece(last - first, number, last - starts[number], None if is_prompt else prompt))
    return AttentionPlan(tuple(lengths), tuple(pieces))


def calls_of(plan: AttentionPlan, short: int) -> tuple[Call, ...]:
    """Group the plan's pieces into calls, in order; whole responses of at most ``short`` tokens may share a call.

    >>> plan = plan_of_runs([(4, True), (3, False), (2, False), (9, False)], [range(18)])
    >>> [[piece.run for piece in call.pieces] for call in calls_of(plan, short=8)]
    [[0], [1, 2], [3]]
    """

    def partners(numbered: tuple[int, Piece]) -> tuple[int | None, int]:
        number, piece = numbered
        is_whole = piece.length == plan.run_lengths[piece.run]
        together = piece.prompt is not None and is_whole and piece.length <= short
        return (piece.prompt, -1) if together else (None, number)

    return tuple(
        Call(tuple(piece for _, piece in neighbours)) for _, neighbours in groupby(enumerate(plan.pieces), partners)
    )


def gather_of(plan: AttentionPlan, calls: Sequence[Call], device: torch.device) -> Gather:
    """Compute the token indices of the calls. Pieces are ordered as this rank's tokens, runs as in the sequence."""
    run_starts = list(accumulate(plan.run_lengths, initial=0))
    queries: list[int] = []
    keys: list[int] = []
    back: list[int] = []
    own = place = 0
    for call in calls:
        for piece in call.pieces:
            if len(call.pieces) > 1:
                places = [*range(piece.length), *[0] * (call.longest - piece.length)]
                queries += [own + offset for offset in places]
                keys += [run_starts[piece.run] + offset for offset in places]
            back += range(place, place + piece.length)
            own += piece.length
            place += call.longest
    return Gather(*(torch.tensor(indices, dtype=torch.int64, device=device) for indices in (queries, keys, back)))
