"""Inspect, reset and convert the state of Megatron-Core's optimizers, single or chained."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from megatron.core.dist_checkpointing.dict_utils import merge
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

_GROUP_OF = ("wd_mult", "lr_mult", "is_decoupled_lr")
"""Settings that identify an optimizer's parameter group, besides ``is_expert_parallel``."""


def optimizer_kind(optimizer: MegatronOptimizer) -> str:
    """Return the class names of Megatron-Core's optimizers, which must match when a state is loaded."""
    return "+".join(type(part).__name__ for part in _parts(optimizer))


def has_stepped(optimizer: MegatronOptimizer) -> bool:
    """Return whether the optimizer has moments yet."""
    return any(part.optimizer.state for part in _parts(optimizer))


def restart(optimizer: MegatronOptimizer) -> None:
    """Reset the optimizer to the start of a run: no moments, and master weights equal to the model's."""
    for part in _parts(optimizer):
        part.optimizer.state.clear()
        for group in part.optimizer.param_groups:
            group.pop("step", None)  # Transformer Engine's Adam counts its steps here
    optimizer.reload_model_params()


def fitted(optimizer: MegatronOptimizer, loaded: dict[Any, Any]) -> dict[Any, Any]:
    """Convert a loaded state to the form of the present optimizer, which may differ from the saved form.

    With expert parallelism, Megatron-Core gives the experts an optimizer of their own and numbers the two states;
    otherwise one optimizer has all parameters. The tensors are the same; only the place of the other values differs.
    """
    numbered = {key: value for key, value in loaded.items() if isinstance(key, int)}
    unnumbered = {key: value for key, value in loaded.items() if key not in numbered}
    saved_numbered = bool(numbered) and _are_saved(_groups(numbered[0]))
    own = getattr(optimizer, "chained_optimizers", [optimizer])
    if saved_numbered == (len(own) > 1):
        return loaded
    if saved_numbered:
        return merge(_saved_settings(own[0], numbered[0]), unnumbered)
    return {number: merge(_saved_settings(part, unnumbered), numbered[number]) for number, part in enumerate(own)}


def _saved_settings(part: MegatronOptimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the settings saved beside the tensors, arranged for the parameter groups of one optimizer."""
    own = deepcopy(saved)
    by_group = {tuple(group[key] for key in _GROUP_OF): group for group in reversed(_groups(saved))}
    _groups(own)[:] = [
        by_group[tuple(group[key] for key in _GROUP_OF)] | {"is_expert_parallel": group["is_expert_parallel"]}
        for group in part.param_groups
    ]
    return own


def _groups(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameter groups in an optimizer's state; their place depends on its class."""
    return state.get("optimizer", state).get("param_groups", [])


def _are_saved(groups: list[dict[str, Any]]) -> bool:
    """Return whether the groups have saved settings, and not only parameter numbers."""
    return bool(groups) and _GROUP_OF[0] in groups[0]


def allocate_state(optimizer: MegatronOptimizer) -> None:
    """Allocate Adam's state, which the distributed optimizer's loader expects to exist."""
    for part in _parts(optimizer):
        if isinstance(part, DistributedOptimizer) and not part.optimizer.state:
            part._init_optimizer_states_with_dummy_values()


def _parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """Return the chained optimizers, one for each kind of parameter, without those that own none on this rank."""
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in chained if not part.is_stub_optimizer]
