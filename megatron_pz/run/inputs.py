"""Open the tokenizer and the passages of a run, and check that they fit the configuration."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from megatron_pz.config.schema import DataConfig, GameConfig, ModelConfig
from megatron_pz.corpus.manifest import tokenizer_sha256
from megatron_pz.corpus.passages import PassageBlend, open_blend
from megatron_pz.corpus.plain_text import read_plain_text
from megatron_pz.hf.architecture import Architecture
from megatron_pz.hf.directory import require_end_tokens
from megatron_pz.roles.prompts import PromptFamily
from megatron_pz.roles.spans import MASK, SpanRules
from megatron_pz.runtime.errors import BadInput

TOKENS_OF_SEAMS, TOKENS_OF_CUT_WORDS = 2, 6
"""Tokens that a prompt may need beyond passage, template and masks, each counted alone: at the seams between passage
and template, and for the two halves of a word in which one mask lies. Wikipedia's leads need at most 1 and 4 with
SmolLM2's tokenizer."""


def tokenizer_dir(model: ModelConfig) -> str:
    """Return the directory of the run's tokenizer."""
    return model.tokenizer_model or model.hf_model


def open_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """Open the model's tokenizer, and make it read control tokens in passages as text.

    Raises:
        BadInput: there is no tokenizer, it has tokens without an embedding in the model, or the model's end tokens
            cannot be read.
    """
    vocabulary = vocab_size(model.hf_model)
    require_end_tokens(Path(model.hf_model), vocabulary)
    directory = tokenizer_dir(model)
    tokenizer_sha256(directory)  # its error for a directory without a tokenizer is clearer than that of transformers
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise BadInput(f"no tokenizer in {directory}: {error}") from None
    require_tokenizer_fits(tokenizer, directory, model.hf_model, vocabulary)
    return read_plain_text(tokenizer)


def open_passages(data: DataConfig, model: ModelConfig, passages_per_step: int) -> PassageBlend:
    """Open the training passages.

    Raises:
        BadInput: there are fewer than a step needs, or they have tokens without an embedding in the model.
    """
    if not data.data_path:
        raise BadInput("--data-path is missing: give the prefix of a .bin/.idx passage dataset")
    passages = open_blend(
        data.data_path, tokenizer_dir(model), min_words=data.min_passage_words, max_words=data.max_passage_words
    )
    if len(passages) < passages_per_step:
        raise BadInput(
            f"--data-path {' '.join(data.data_path)} has {len(passages)} passages of the wanted length, fewer than "
            f"--passages-per-step {passages_per_step}"
        )
    vocabulary = vocab_size(model.hf_model)
    for corpus in passages.datasets:
        highest = corpus.highest_token_id()
        if highest >= vocabulary:
            raise BadInput(
                f"--data-path {corpus.prefix} has token ids up to {highest}, and --hf-model {model.hf_model} a "
                f"vocab_size of {vocabulary}: preprocess the corpus with the model's own tokenizer"
            )
    return passages


def vocab_size(hf_model: str | Path) -> int:
    """Return the number of tokens with an embedding in the model."""
    return Architecture.from_hf(hf_model).vocab_size


def require_tokenizer_fits(
    tokenizer: PreTrainedTokenizerBase, directory: str | Path, hf_model: str | Path, vocabulary: int
) -> None:
    """Raise BadInput if the tokenizer has an id that is not below ``vocabulary``, the model's ``vocab_size``.

    Such a token has no embedding, or a row of Megatron-Core's padding, whose zeros would be trained.
    """
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= vocabulary:
        raise BadInput(
            f"the tokenizer of {directory} has ids up to {highest} ({token!r}), and --hf-model {hf_model} a vocab_size "
            f"of {vocabulary}: give the tokenizer that the model was trained with"
        )


def require_prompt_budget(
    passages: PassageBlend, tokenizer: PreTrainedTokenizerBase, game: GameConfig, max_prompt_length: int
) -> None:
    """Refuse a corpus whose longest passage does not fit the prompt budget, before any step uses it.

    Raises:
        BadInput: a prompt may be too long; the message names the lengths in tokens.
    """
    family = PromptFamily.load(game.prompt_family)
    # A mask may have more tokens than the words that it hides, and so may the halves of a word that it splits.
    masks = 1 if game.span_policy == "one_mask" else game.max_span_occurrences - 1
    halves = 0 if SpanRules.from_config(game).whole_words else TOKENS_OF_CUT_WORDS * masks
    prompts = {family.generator_prompt(""): 0, family.predictor_prompt(MASK * masks): halves}
    frame = TOKENS_OF_SEAMS + max(
        len(tokenizer.encode(prompt, add_special_tokens=False)) + more for prompt, more in prompts.items()
    )
    longest = passages.longest()
    if longest + frame > max_prompt_length:
        raise BadInput(
            f"the longest passage has {longest} tokens and its prompt {frame} more, over --max-prompt-length "
            f"{max_prompt_length}: raise it, or preprocess with a smaller --max-passage-tokens, or set "
            "--max-passage-words"
        )
