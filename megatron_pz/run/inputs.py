"""Open the tokenizer and the passages of a run, and check that they fit the configuration."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_pz.config.schema import RunConfig
from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.corpus.passages import PassageBlend, open_blend
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MASK, SpanRules
from megatron_pz.runtime.errors import BadInput

TOKENS_OF_SEAMS, TOKENS_OF_CUT_WORDS = 2, 6
"""What a prompt may need beyond passage, template and masks, each counted alone: where passage and template meet, and
for the rests of the words that one mask cuts. SmolLM2 on Wikipedia's leads needs at most 1 and 4."""


def tokenizer_dir(config: RunConfig) -> str:
    """Folder of the run's tokenizer."""
    return config.model.tokenizer_model or config.model.hf_model


def open_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises BadInput where there is none."""
    directory = tokenizer_dir(config)
    tokenizer_sha256(directory)  # refuses a folder without one more clearly than transformers does
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise BadInput(f"no tokenizer in {directory}: {error}") from None


def open_passages(config: RunConfig) -> PassageBlend:
    """The training passages. Raises BadInput when there are fewer than a step needs."""
    data = config.data
    passages = open_blend(
        data.data_path, tokenizer_dir(config), min_words=data.min_passage_words, max_words=data.max_passage_words
    )
    if len(passages) < config.game.passages_per_step:
        raise BadInput(
            f"--data-path {' '.join(data.data_path)} has {len(passages)} passages of the wanted length, fewer than "
            f"--passages-per-step {config.game.passages_per_step}"
        )
    return passages


def require_prompt_budget(passages: PassageBlend, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    """Refuse a corpus whose longest passage does not fit the prompt budget, before the first step meets it.

    Raises:
        BadInput: naming the lengths in tokens.
    """
    family, rules = PromptFamily.load(config.game.prompt_family), config.game
    # A mask may take more tokens than the words that it hides, and so do the rests of a word that it cuts in two.
    masks = 1 if rules.span_policy == "one_mask" else rules.max_span_occurrences - 1
    rests = 0 if SpanRules.from_config(rules).whole_words else TOKENS_OF_CUT_WORDS * masks
    prompts = {family.generator_prompt(""): 0, family.predictor_prompt(MASK * masks): rests}
    frame = TOKENS_OF_SEAMS + max(
        len(tokenizer.encode(prompt, add_special_tokens=False)) + more for prompt, more in prompts.items()
    )
    longest, budget = passages.longest(), config.rollout.max_prompt_length
    if longest + frame > budget:
        raise BadInput(
            f"the longest passage has {longest} tokens and its prompt {frame} more, over --max-prompt-length {budget}: "
            "raise it, or preprocess with a smaller --max-passage-tokens, or set --max-passage-words"
        )
