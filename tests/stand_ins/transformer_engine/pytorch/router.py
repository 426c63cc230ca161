"""Names that Megatron-Core imports, and that the tests do not use."""

fused_compute_score_for_moe_aux_loss = fused_moe_aux_loss = fused_topk_with_score_function = None
