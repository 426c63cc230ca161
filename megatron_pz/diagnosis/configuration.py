"""Check whether a training command would start here with a given configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from megatron_pz.diagnosis.finding import Finding
from megatron_pz.runtime.errors import BadInput, one_line


def check_configuration(flags: Sequence[str]) -> Iterator[Finding]:
    """Check whether ``megatron_pz.train`` with these flags would start here: values, layout, precision."""
    try:
        from megatron_pz.config.parse import parse_run_config
        from megatron_pz.config.validate_precision import machine_refusals
        from megatron_pz.hf.architecture import Architecture
        from megatron_pz.model.precision import this_machine
        from megatron_pz.model.transformer_config import transformer_config
        from megatron_pz.run.precision import decide_precision, describe
    except ImportError as error:
        yield Finding("configuration", "problem", "cannot be checked", one_line(error))
        return
    try:
        config = parse_run_config(flags, "megatron_pz.train")
        architecture = Architecture.from_hf(config.model.hf_model)
        transformer_config(architecture, config.model, config.parallel)
    except BadInput as error:
        yield Finding("configuration", "problem", "refused", one_line(error))
        return
    refusals = machine_refusals(config, this_machine())
    for reason in refusals:
        yield Finding("configuration", "problem", "not on this machine", reason)
    if refusals:
        return
    parallel = config.parallel
    layout = {
        "tensor": parallel.tensor_model_parallel_size,
        "context": parallel.context_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
    }
    processes = math.prod(layout.values())
    sizes = ", ".join(f"{name} {size}" for name, size in layout.items() if size > 1) or "data parallel only"
    remark = "any number of processes" if processes == 1 else f"a multiple of {processes} processes"
    yield Finding("layout", "ok", sizes, remark)
    decision = decide_precision(config)
    bound = f"mismatch check: at most {decision.config.rollout.max_log_prob_difference:g} nats a token"
    remark = "; ".join(text for text in (decision.warning, decision.reason, bound) if text)
    yield Finding("precision", "note" if decision.warning else "ok", describe(decision.config), remark)
