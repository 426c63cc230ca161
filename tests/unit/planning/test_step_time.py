"""The simulation of a step, compared with worked examples, and an engine's events with a count of token steps."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import GrpoConfig, ModelConfig, ParallelConfig, RunConfig, TrainingConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.monitoring.compute import forward_flops, token_pairs
from megatron_pz.planning.memory import plan_memory
from megatron_pz.planning.parameters import model_size, shard_sizes
from megatron_pz.planning.step_time.devices import DEVICES, find_device
from megatron_pz.planning.step_time.engine import EngineCost, serve
from megatron_pz.planning.step_time.estimate import Estimate
from megatron_pz.planning.step_time.lengths import Lengths
from megatron_pz.planning.step_time.rates import GPU_RATES
from megatron_pz.planning.step_time.rollout import SCHEDULES, Schedule, schedule_of, simulate_rollout
from megatron_pz.planning.step_time.step import Cluster, simulate_step
from megatron_pz.planning.step_time.update import UpdateCost
from megatron_pz.planning.step_time.workload import Response, draw_step, workload_of
from megatron_pz.runtime.errors import BadInput
from tests.support.published_models import architecture

ROOT = Path(__file__).resolve().parents[3]
H100 = find_device("h100")


@pytest.fixture
def qwen(tmp_path: Path) -> Architecture:
    return architecture("qwen3_4b", tmp_path)


def engine(arch: Architecture, sequences: int = 256, cache: int = 10**9, tensor: int = 1) -> EngineCost:
    return EngineCost(arch, H100, GPU_RATES, tensor, 2.0, 2.0, sequences, cache)


def every_step(responses: list[Response], cost: EngineCost) -> list[float]:
    """Return the ends of the responses, by counting every token step; the cache never fills."""
    waiting, running, cached = deque(responses), [], set()
    clock, ends = 0.0, []
    while waiting or running:
        while waiting and len(running) < cost.max_sequences:
            response = waiting.popleft()
            clock += 0.0 if response.group in cached else cost.prefill(response.prompt)
            cached.add(response.group)
            running.append([response, 0])
        context = sum(response.prompt + done for response, done in running)
        clock += cost.token_step(len(running)) + context * cost.context_second()
        for each in running:
            each[1] += 1
        for response, done in list(running):
            if done == response.length:
                ends.append(clock)
                running.remove([response, done])
                waiting.extend(response.followers)
    return ends


def test_events_take_the_time_of_all_token_steps(qwen: Architecture) -> None:
    rng = np.random.default_rng(3)
    responses = []
    for number in range(12):
        followers = tuple(Response(100 + number, 50, int(length)) for length in rng.integers(1, 90, 3))
        responses.append(Response(number // 4, 70, int(rng.integers(1, 120)), followers))
    for sequences in (1, 5, 64):
        cost = engine(qwen, sequences)
        assert serve(responses, cost) == pytest.approx(every_step(responses, cost), rel=1e-9)


def test_one_response_reads_the_weights_and_its_own_context_at_every_token(qwen: Architecture) -> None:
    cost, bandwidth = engine(qwen), 0.7 * 3.35e12
    of_token = 2 * 2 * 36 * 8 * 128  # keys and values of two bytes, layers, groups, width
    (end,) = serve([Response(0, 500, 1000)], cost)
    reading = (1000 * 2 * model_size(qwen) + of_token * (1000 * 500 + 1000 * 999 / 2)) / bandwidth
    assert end == pytest.approx(cost.prefill(500) + 1000 * 1.5e-3 + reading)


def test_a_full_cache_preempts_and_still_ends_every_response(qwen: Architecture) -> None:
    responses = [Response(number, 100, 400) for number in range(16)]
    roomy, tight = serve(responses, engine(qwen)), serve(responses, engine(qwen, cache=2000))
    assert len(tight) == len(roomy) == 16
    assert 2 * roomy[-1] < tight[-1] < 16 * roomy[-1], "four at a time, and not one by one"
    shared = [Response(0, 1500, 100) for _ in range(4)]
    assert serve(shared, engine(qwen, cache=2000))[-1] == pytest.approx(serve(shared, engine(qwen))[-1])
    assert len(serve([Response(0, 5000, 10)], engine(qwen, cache=2000))) == 1, "one runs in any cache"


def test_two_devices_of_an_engine_halve_what_is_read(qwen: Architecture) -> None:
    one, two = engine(qwen), engine(qwen, tensor=2)
    latency = 2 * 36 * GPU_RATES.all_reduce_seconds
    fixed = GPU_RATES.token_step_seconds
    assert two.token_step(1) - fixed - latency == pytest.approx((one.token_step(1) - fixed) / 2)
    assert two.context_second() == pytest.approx(one.context_second() / 2)


def test_a_mixture_reads_the_experts_that_its_batch_chose(tmp_path: Path) -> None:
    arch = architecture("qwen3_30b_a3b", tmp_path)
    cost = engine(arch)
    bandwidth = 0.7 * 3.35e12
    read = [(cost.token_step(batch) - GPU_RATES.token_step_seconds) * bandwidth / 2 for batch in (1, 256)]
    assert read[0] == pytest.approx(3.35e9, rel=0.02), "3.3 billion weights are active"
    assert read[1] == pytest.approx(model_size(arch), rel=0.01)


def test_lengths_have_the_mean_of_a_run_and_its_limit() -> None:
    for mean, sigma in ((600, 0.9), (1000, 0.5), (3500, 1.0), (3, 0.4)):
        drawn = Lengths(mean, sigma, 4096).draw(np.random.default_rng(1), 200_000)
        assert drawn.mean() == pytest.approx(mean, rel=0.02) and drawn.min() >= 1 and drawn.max() <= 4096
    assert set(Lengths(50, 0.0, 60).draw(np.random.default_rng(1), 5)) == {50}
    with pytest.raises(BadInput, match="must be between 1 and the limit, 4096"):
        Lengths(4097, 0.9, 4096)
    with pytest.raises(BadInput, match="--sigma -1"):
        Lengths(10, -1, 4096)


def test_every_schedule_samples_the_same_and_waits_less_than_the_barrier(qwen: Architecture) -> None:
    step = draw_step(workload_of(load_yaml(ROOT / "examples/qwen3_4b/config.yaml"), 700, 700, 0.9, 500), seed=0)
    assert step.responses == 32 * 8 + 256 * 8
    colocated: tuple[Schedule, ...] = ("barrier", "one-queue", "generator-ahead")
    barrier, queue, ahead = (simulate_rollout(step, schedule, 16, engine(qwen)) for schedule in colocated)
    assert ahead.seconds < queue.seconds < barrier.seconds
    for rollout in (barrier, queue, ahead):
        assert 0 < rollout.tail < rollout.seconds and 0 < rollout.busy < rollout.seconds
    alone = simulate_rollout(step, "barrier", 512, engine(qwen))
    assert alone.busy < 0.3 * alone.seconds, "480 engines have no proposals to make"


def update_cost(arch: Architecture, gpus: int, grpo: GrpoConfig | None = None, **sizes: object) -> UpdateCost:
    parallel = ParallelConfig(use_distributed_optimizer=True, **sizes)  # type: ignore[arg-type]
    config = RunConfig(parallel=parallel, grpo=grpo or GrpoConfig(), training=TrainingConfig(micro_batch_tokens=2048))
    return UpdateCost(arch, config, H100, GPU_RATES, gpus, 8)


def test_an_update_takes_its_operations_at_the_update_rate(qwen: Architecture) -> None:
    groups = [(400, (200,) * 8)] * 16
    flops = 3 * 16 * forward_flops(qwen, 2000, 1600, token_pairs(400, [200] * 8))
    one = update_cost(qwen, 1).update(groups)
    adam = 40 * model_size(qwen) / (0.7 * H100.bandwidth)
    assert one.seconds == one.busy == pytest.approx(flops / (0.4 * H100.flops) + adam)
    eight = update_cost(qwen, 8).update(groups)
    reduction = 7 / 8 * (4 + 2) * model_size(qwen) / (0.7 * H100.peer_link)
    assert eight.seconds == pytest.approx(one.seconds / 8 + reduction, rel=1e-3), "each has its share of Adam"
    full = update_cost(qwen, 1, recompute_granularity="full").update(groups)
    assert full.seconds - adam == pytest.approx((one.seconds - adam) * 4 / 3)
    twice = update_cost(qwen, 1, GrpoConfig(updates_per_step=2)).update(groups)
    assert twice.seconds - 2 * adam == pytest.approx((one.seconds - adam) * 4 / 3), (
        "old log-probabilities, a forward pass"
    )


def test_bubbles_and_the_slowest_copy_count(qwen: Architecture) -> None:
    groups = [(400, (200,) * 8)] * 16
    one = update_cost(qwen, 1).update(groups)
    adam = 40 * model_size(qwen) / (0.7 * H100.bandwidth)
    piped = update_cost(qwen, 4, pipeline_model_parallel_size=4).update(groups)
    stage = 40 * max(
        size.total for size in shard_sizes(qwen, ModelConfig(), ParallelConfig(pipeline_model_parallel_size=4))
    )
    of_stage = stage / (0.7 * H100.bandwidth)
    work = (one.seconds - adam) / 4
    assert piped.seconds - of_stage == pytest.approx(work * (1 + 3 / 16)), "three bubbles in 16 micro-batches"
    assert piped.busy - of_stage == pytest.approx(work)
    few = update_cost(qwen, 64).update(groups)
    over_nodes = 63 / 64 * (4 + 2) * model_size(qwen) / (0.7 * H100.node_link)
    assert few.seconds == pytest.approx(work / 4 + adam / 64 + over_nodes, rel=1e-3), "48 of 64 have nothing to do"


def test_a_step_of_256_gpus_takes_less_than_a_second(qwen: Architecture) -> None:
    config = load_yaml(ROOT / "examples/qwen3_4b/config.yaml")
    plan, work = plan_memory(qwen, config, 256, 80), workload_of(config, 1000, 1000, 0.9, 700)
    started = time.process_time()
    found = simulate_step(qwen, config, plan, Cluster(H100, GPU_RATES, 256), work, draws=1)
    assert time.process_time() - started < 1.0
    assert found.rollout_gpus == 256 and found.seconds > found.rollout + found.update


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_parts_add_up_and_shares_are_shares(qwen: Architecture, schedule: Schedule) -> None:
    config = load_yaml(ROOT / "examples/qwen3_4b/config.yaml")
    work, plan = workload_of(config, 1000, 1000, 0.9, 700), plan_memory(qwen, config, 16, 80)
    found = simulate_step(qwen, config, plan, Cluster(H100, GPU_RATES, 16), work, schedule, draws=1)
    both = max if schedule == "rollout-ranks" else lambda *parts: sum(parts)
    assert found.seconds == pytest.approx(both(found.rollout, found.update) + found.sync + found.rest)
    assert 0 < found.idle < 1 and found.tokens_per_gpu == found.sampled / found.seconds / 16
    again = simulate_step(qwen, config, plan, Cluster(H100, GPU_RATES, 16), work, schedule, draws=1)
    assert again == found


def test_what_cannot_be_simulated_is_one_line(qwen: Architecture) -> None:
    with pytest.raises(BadInput, match="--gpu V100: unknown; known are H100, H200"):
        find_device("V100")
    config = replace(load_yaml(ROOT / "examples/qwen3_4b/config.yaml"), parallel=ParallelConfig())
    work, plan = workload_of(config, 1000, 1000, 0.9, 700), plan_memory(qwen, config, 1, 80)
    with pytest.raises(BadInput, match="too few to part trainer and rollout ranks"):
        simulate_step(qwen, config, plan, Cluster(H100, GPU_RATES, 1), work, "rollout-ranks")
    wide = replace(config, rollout=replace(config.rollout, rollout_tensor_parallel_size=2))
    with pytest.raises(BadInput, match="does not divide 1 devices"):
        simulate_step(qwen, wide, plan, Cluster(H100, GPU_RATES, 1), work)


def test_a_recipe_with_rollout_ranks_parts_the_devices_as_it_says(qwen: Architecture) -> None:
    """The layout counts the trainer's devices; no device holds both an engine and the trainer."""
    recipe = load_yaml(ROOT / "examples/qwen3_4b/config.yaml")
    parallel = replace(recipe.parallel, tensor_model_parallel_size=4, pipeline_model_parallel_size=1)
    config = replace(recipe, parallel=parallel, rollout=replace(recipe.rollout, rollout_ranks=6))
    assert schedule_of(config) == "rollout-ranks"
    with pytest.raises(BadInput, match="needs a multiple of 4"):
        plan_memory(qwen, config, 16, 80)
    config = replace(config, rollout=replace(config.rollout, rollout_ranks=12))
    plan, beside = plan_memory(qwen, config, 16, 80), plan_memory(qwen, replace(config, rollout=recipe.rollout), 4, 80)
    assert plan.stages == beside.stages
    assert plan.updating() == max(stage.updating() for stage in plan.stages)
    assert plan.sampling() == plan.engine.weights + plan.engine.cache < beside.sampling()
    work = workload_of(config, 1000, 1000, 0.9, 700)
    timing = Estimate(qwen, config, Cluster(H100, GPU_RATES, 16), work, "", ())
    (found,) = timing.of_schedules(config, plan)
    assert (found.schedule, found.rollout_gpus) == ("rollout-ranks", 12)
    with pytest.raises(BadInput, match="--gpus 12: --rollout-ranks 12 leave none for the trainer"):
        plan_memory(qwen, config, 12, 80)


def test_every_device_names_its_source() -> None:
    for device in DEVICES.values():
        assert device.source and device.flops > 0 and device.node_link <= device.peer_link
