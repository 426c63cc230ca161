"""Load a Hugging Face checkpoint in several layouts, and compare logits and streamed weights with the files.

``hf_mapping_worker.py FOLDER LAYOUT [LAYOUT …]`` under torchrun; a layout is ``tp2``, ``pp2``, ``tp2,sp``,
``pp2,first1`` (one layer on the first stage), or such parts joined by commas. Prints ``OK {layout}`` on rank 0.
"""

from __future__ import annotations

import argparse
import re

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from megatron_pz.config.schema import ModelConfig, ParallelConfig
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.checkpoint import HFTensorSource
from megatron_pz.model.gpt import build_model
from megatron_pz.model.hf_mapping import load_hf_weights
from megatron_pz.model.hf_stream import stream_hf_weights
from megatron_pz.model.transformer_config import transformer_config

from megatron.core import parallel_state, tensor_parallel  # isort: skip

LENGTH = 24


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("layouts", nargs="+")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    input_ids_BS = torch.randint(300, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected_BSV = AutoModelForCausalLM.from_pretrained(options.folder)(input_ids_BS).logits
    for layout in options.layouts:
        check_layout(options.folder, layout, input_ids_BS, expected_BSV)
        if dist.get_rank() == 0:
            print(f"OK {layout}", flush=True)
    dist.destroy_process_group()


def check_layout(folder: str, layout: str, input_ids_BS: torch.Tensor, expected_BSV: torch.Tensor) -> None:
    sizes = {name: int(number or 1) for name, number in re.findall(r"([a-z]+)(\d*)", layout)}
    parallel = ParallelConfig(
        tensor_model_parallel_size=sizes.get("tp", 1),
        pipeline_model_parallel_size=sizes.get("pp", 1),
        sequence_parallel="sp" in sizes,
    )
    parallel_state.initialize_model_parallel(sizes.get("tp", 1), sizes.get("pp", 1))
    tensor_parallel.model_parallel_cuda_manual_seed(0)
    arch = Architecture.from_hf(folder)
    for bf16 in (False, True):
        config = transformer_config(arch, ModelConfig(bf16=bf16, make_vocab_size_divisible_by=8), parallel)
        if "first" in sizes:
            config.num_layers_in_first_pipeline_stage = sizes["first"]
        model = build_model(arch, config).eval()
        load_hf_weights(model, arch, HFTensorSource(folder))
        if not bf16:
            check_logits(model, input_ids_BS, expected_BSV)
        check_stream(model, arch, folder, config.params_dtype)
    parallel_state.destroy_model_parallel()


@torch.no_grad()
def check_logits(model: torch.nn.Module, input_ids_BS: torch.Tensor, expected_BSV: torch.Tensor) -> None:
    """Run one forward pass through all stages, and compare the last stage's logits with transformers."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    if not model.pre_process:
        length = LENGTH // ranks if model.config.sequence_parallel else LENGTH
        hidden_SBH = torch.empty(length, len(input_ids_BS), model.config.hidden_size)
        dist.recv(hidden_SBH, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(hidden_SBH)
    output = model(input_ids_BS, torch.arange(LENGTH).expand(2, -1), attention_mask=None)
    if not model.post_process:
        dist.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
        return
    shards = [torch.empty_like(output) for _ in range(ranks)]
    dist.all_gather(shards, output.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    logits_BSV = torch.cat(shards, dim=-1)[..., : expected_BSV.size(-1)]
    torch.testing.assert_close(logits_BSV, expected_BSV, rtol=0, atol=1e-4)


def check_stream(model: torch.nn.Module, arch: Architecture, folder: str, dtype: torch.dtype) -> None:
    """Check on every rank that the stream has every tensor once, bit for bit as in the file, in the model's dtype."""
    source = HFTensorSource(folder)
    streamed = []
    for name, tensor in stream_hf_weights([model], arch):
        assert tensor.dtype == dtype, name
        assert torch.equal(tensor, source.slices(name)[:].to(dtype)), name
        streamed.append(name)
    assert sorted(streamed) == sorted(source.names())


if __name__ == "__main__":
    main()
