"""Run both roles once with a Hugging Face model, which masks a given paragraph and then predicts its own mask.

    python tools/play.py --config FILE --hf-model DIR --text "A paragraph of your own."

Decodes greedily with transformers; an exported model needs neither Megatron-Core nor vLLM.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from megatron_pz.algorithm.role_sampler import RoleSampler
from megatron_pz.config.command_line import Parser
from megatron_pz.config.parse import load_yaml
from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.corpus.plain_text import read_plain_text
from megatron_pz.rl.experience import Decoding, Response
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.roles.answers import last_command
from megatron_pz.roles.spans import SpanRules
from megatron_pz.run.inputs import require_tokenizer_fits
from megatron_pz.runtime.errors import BadInput, exits_with_one_line


class GreedyEngine:
    """A rollout engine on transformers that decodes greedily."""

    def __init__(self, directory: Path, max_prompt_length: int) -> None:
        """Load model and tokenizer. Raise :class:`BadInput` if transformers cannot load the directory."""
        disable_progress_bar()
        if not (directory / "config.json").is_file():  # transformers would take it for a model name on the hub
            raise BadInput(f"--hf-model {directory}: no config.json there; give a Hugging Face directory")
        tokenizer_sha256(directory)  # refuses a directory without a tokenizer
        try:
            self.tokenizer = read_plain_text(AutoTokenizer.from_pretrained(directory))
            self.model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise BadInput(f"transformers cannot load --hf-model {directory}: {error}") from None
        require_tokenizer_fits(self.tokenizer, directory, directory, self.model.config.vocab_size)
        self.max_prompt_length = max_prompt_length
        ends = self.model.generation_config.eos_token_id  # one id, several, or None
        # As in rollouts, because vLLM also ends at the tokenizer's own end token.
        every = [*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id]
        self.ends = frozenset(end for end in every if end is not None)
        # transformers takes unset arguments from generation_config.json (repetition penalty, beams …).
        self.model.generation_config = GenerationConfig()

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        stop: Sequence[str],
        decoding: Decoding | None = None,
    ) -> list[list[Response]]:
        """Continue each prompt once with its most likely tokens. ``n`` must be 1; ``seeds`` are not used.

        ``decoding`` may also only request greedy decoding.

        Raises:
            BadInput: a prompt is longer than ``max_prompt_length``.
        """
        if n != 1:
            raise ValueError(f"greedy decoding gives one response per prompt, not {n}")
        if decoding is not None and decoding.temperature != 0:
            raise ValueError(f"this engine decodes greedily, not at temperature {decoding.temperature}")
        return [[self._continue(prompt, max_tokens, stop)] for prompt in prompts]

    def _continue(self, prompt: Sequence[int], max_tokens: int, stop: Sequence[str]) -> Response:
        if len(prompt) > self.max_prompt_length:
            raise BadInput(
                f"--text makes a prompt of {len(prompt)} tokens, above the configuration's max_prompt_length "
                f"{self.max_prompt_length}; give a shorter paragraph"
            )
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            stop_strings=list(stop) or None,
        )
        inputs = torch.tensor([prompt])
        output = self.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), generation_config=settings, tokenizer=self.tokenizer
        )
        new = output[0, len(prompt) :].tolist()
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        ended = (bool(new) and new[-1] in self.ends) or any(mark in text for mark in stop)
        return Response(tuple(new), (0.0,) * len(new), text, truncated=not ended)


@exits_with_one_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = Parser("Run both roles once with a Hugging Face model.")
    parser.add_argument("--config", type=Path, required=True, help="the configuration that the model was trained with")
    parser.add_argument("--hf-model", type=Path, required=True, help="directory of the model")
    parser.add_argument("--text", required=True, help="a paragraph")
    flags = parser.parse_args(argv)
    if not flags.text.strip():
        raise BadInput("--text is empty: give a paragraph")
    config = load_yaml(flags.config)
    if not SpanRules.from_config(config.game).is_maskable(flags.text):
        raise BadInput("--text holds a literal [mask], which is what hidden words look like; give another paragraph")
    engine = GreedyEngine(flags.hf_model, config.rollout.max_prompt_length)
    lengths = {role: config.rollout.longest_response(role) for role in GAME_ROLES}
    sampler = RoleSampler(config.game, engine.tokenizer, dict.fromkeys(GAME_ROLES, engine), lengths)

    (proposed,) = sampler.propose([flags.text], n=1, seeds=[0])
    print(f"mask generator:  {proposed.responses[0].text.strip()}")
    (mask,) = proposed.masks
    if mask.span is None:
        print(f"no valid mask: {mask.fault.value.replace('_', ' ')}")
        return
    masked = sampler.spans.apply(mask.span, flags.text, random.Random(config.training.seed))
    print(f"masked passage:  {masked.text}")
    (predicted,) = sampler.predict([masked], n=1, seeds=[0])
    response = predicted.responses[0].text
    print(f"mask predictor:  {response.strip()}")
    verdict = "right" if predicted.rewards[0] == 1.0 else "wrong"
    print(f"{verdict}: {last_command(response, 'boxed')!r} for {masked.span!r}")


if __name__ == "__main__":
    main()
