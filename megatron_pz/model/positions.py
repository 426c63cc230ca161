"""Apply rotary embedding at each token's own position, for packed sequences in which positions restart."""

from __future__ import annotations

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from torch import Tensor


class PositionRotaryEmbedding(RotaryEmbedding):
    """Megatron-Core's ``RotaryEmbedding`` for given ``position_ids`` instead of the positions 0 … S-1.

    Megatron-Core passes ``position_ids`` to the model in every pipeline stage but not to this module; the hook of
    :func:`use_position_ids` does. The angles are computed once for each forward call, before the layers, so activation
    recomputation does not repeat it.
    """

    inv_freq: Tensor
    position_ids: Tensor | None = None
    """int64 [b, S], those of the current forward call."""

    def forward(
        self,
        max_seq_len: int,
        offset: int = 0,
        packed_seq: bool = False,
        cp_group: torch.distributed.ProcessGroup | None = None,
    ) -> Tensor:
        """Return angles, float32 [S, b, 1, d], or Megatron-Core's [S, 1, 1, d] without ``position_ids``."""
        if self.position_ids is None:
            return super().forward(max_seq_len, offset, packed_seq, cp_group)
        self.inv_freq = self.inv_freq.to(self.position_ids.device)
        positions_Sb = self.position_ids.t().float()
        if self.seq_len_interpolation_factor is not None:
            positions_Sb = positions_Sb / self.seq_len_interpolation_factor
        angles = positions_Sb[..., None] * self.inv_freq
        angles = angles.repeat_interleave(2, dim=-1) if self.rotary_interleaved else torch.cat((angles, angles), dim=-1)
        return angles[:, :, None]


def use_position_ids(model: LanguageModule) -> None:
    """Make the model's rotary embedding follow ``position_ids``; its frequencies, also scaled ones, are unchanged."""
    rotary = model.rotary_pos_emb
    rotary.__class__ = PositionRotaryEmbedding

    def remember(_: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        rotary.position_ids = args[1] if len(args) > 1 else kwargs.get("position_ids")

    model.register_forward_pre_hook(remember, with_kwargs=True)
