"""Divide the tokens of one packed sequence among context parallel ranks.

For n ranks a sequence is cut into 2n pieces of equal length, and rank r holds pieces r and 2n-1-r, as in Megatron-Core
(``get_batch_on_this_cp_rank``). Late pieces attend to the most keys; one early and one late piece balance the load.
"""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_pz.runtime.errors import BadInput


def own_ranges(length: int, rank: int, ranks: int) -> tuple[range, ...]:
    """Return the token ranges of a packed sequence that a rank holds, in its order.

    Raises:
        BadInput: the sequence cannot be cut into equal pieces.

    >>> own_ranges(8, 0, 2)
    (range(0, 2), range(6, 8))
    """
    if ranks == 1:
        return (range(length),)
    if length % (2 * ranks):
        raise BadInput(
            f"a packed sequence of {length} tokens cannot be shared by {ranks} context parallel ranks: "
            f"pad it to a multiple of {2 * ranks}"
        )
    piece = length // (2 * ranks)
    return tuple(range(number * piece, (number + 1) * piece) for number in (rank, 2 * ranks - 1 - rank))


def own_tokens(row_S: Tensor, group: ProcessGroup) -> Tensor:
    """Return this rank's tokens (or positions) [S / ranks] of a packed sequence, the same on tensor parallel peers."""
    if group.size() == 1:
        return row_S
    return torch.cat(
        [row_S[tokens.start : tokens.stop] for tokens in own_ranges(len(row_S), group.rank(), group.size())]
    )


def gather_tokens(part: Tensor, group: ProcessGroup) -> Tensor:
    """Gather [S, …] from every rank's part [S / ranks, …]. The backward pass sums the ranks' gradients."""
    ranks = group.size()
    if ranks == 1:
        return part
    pieces = gather_from_sequence_parallel_region(part.contiguous(), group=group).chunk(2 * ranks)
    return torch.cat((*pieces[0::2], *pieces[:0:-2]))


def own_rows(logit_index_R: Tensor, length: int, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Select this rank's entries of ``logit_index_R`` for a packed sequence of ``length`` tokens.

    Returns:
        (int64 [r] indices into R, ascending; int64 [r] indices into the rank's own tokens); r may be 0.
    """
    before = 0
    place_R = torch.full_like(logit_index_R, -1)
    for tokens in own_ranges(length, group.rank(), group.size()):
        is_here_R = (logit_index_R >= tokens.start) & (logit_index_R < tokens.stop)
        place_R = torch.where(is_here_R, logit_index_R - tokens.start + before, place_R)
        before += len(tokens)
    own_r = (place_R >= 0).nonzero()[:, 0]
    return own_r, place_R[own_r]
