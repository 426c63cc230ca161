"""Play one round of the game with a Hugging Face model: it masks a paragraph of yours, then solves its own mask.

    python tools/play.py --config FILE --hf-model DIR --text "A paragraph of your own."

Runs on transformers alone, greedily: an exported model needs neither Megatron-Core nor vLLM.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import load_yaml
from megatron_pz.config.schema import RolloutConfig
from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.rl.experience import Role
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.mask_generator import MaskGenerator
from megatron_pz.roles.mask_predictor import MaskPredictor
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import SpanRules
from megatron_pz.runtime.errors import BadInput, exits_with_one_line


class GreedyModel:
    """A causal language model that continues a prompt with its most likely tokens, as far as in training."""

    def __init__(self, directory: Path, stop: tuple[str, ...], lengths: RolloutConfig) -> None:
        """Raises :class:`BadInput` when transformers cannot load the directory."""
        disable_progress_bar()
        if not (directory / "config.json").is_file():  # transformers would take it for a name on the hub
            raise BadInput(f"--hf-model {directory}: no config.json there; give a Hugging Face directory")
        tokenizer_sha256(directory)  # refuses a folder without a tokenizer
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(directory)
            self.model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise BadInput(f"transformers cannot load --hf-model {directory}: {error}") from None
        self.stop, self.lengths = stop, lengths

    @torch.inference_mode()
    def __call__(self, prompt: str, role: Role) -> tuple[str, bool]:
        """The continuation, and whether the role's length limit cut it off. Raises BadInput for too long a prompt."""
        inputs = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        tokens, most = inputs["input_ids"].shape[1], self.lengths.max_prompt_length
        if tokens > most:
            raise BadInput(
                f"--text makes a prompt of {tokens} tokens, above the configuration's max_prompt_length {most}; give a "
                "shorter paragraph"
            )
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": self.lengths.longest_response(role)}
        if self.stop:
            options |= {"stop_strings": list(self.stop), "tokenizer": self.tokenizer}
        output = self.model.generate(**inputs, **options)
        new = output[0, tokens:]
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        ends = self.model.generation_config.eos_token_id  # one number, several, or None
        ended = int(new[-1]) in (ends if isinstance(ends, list) else [ends]) or any(stop in text for stop in self.stop)
        return text, not ended


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Command line entry point."""
    parser = Parser("Play one round of the game with a Hugging Face model.")
    parser.add_argument("--config", type=Path, required=True, help="the configuration that the model was trained with")
    parser.add_argument("--hf-model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--text", required=True, help="a paragraph")
    flags = parser.parse_args(argv)
    if not flags.text.strip():
        raise BadInput("--text is empty: give a paragraph")
    config = load_yaml(flags.config)
    family, policy = PromptFamily.load(config.game.prompt_family), SpanRules.from_config(config.game)
    if not policy.is_maskable(flags.text):
        raise BadInput("--text holds a literal [mask], which is what hidden words look like; give another paragraph")
    model = GreedyModel(flags.hf_model, family.stop, config.rollout)

    generator = MaskGenerator(policy, family)
    response, truncated = model(generator.prompt(flags.text), "generator")
    print(f"mask generator:  {response.strip()}")
    proposal = generator.read(response, truncated, flags.text)
    if proposal.span is None:
        print(f"no valid mask: {proposal.fault.value.replace('_', ' ')}")
        return
    masked = policy.apply(proposal.span, flags.text, random.Random(config.training.seed))
    print(f"masked passage:  {masked.text}")
    predictor = MaskPredictor(family, config.game.answer_normalization)
    response, truncated = model(predictor.prompt(masked), "predictor")
    right = predictor.reward(response, truncated, masked.span) == 1.0
    print(f"mask predictor:  {response.strip()}")
    print(f"{'right' if right else 'wrong'}: {last_command(response, 'boxed')!r} for {masked.span!r}")


if __name__ == "__main__":
    main()
