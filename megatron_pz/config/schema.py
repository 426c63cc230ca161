"""Define every setting of a run, with its default, its range and its source.

A run's configuration is :class:`RunConfig`: frozen dataclasses, filled from a YAML file whose top-level keys are the
sections below, and then from flags. Flags omit the section's name and use dashes (``rollout.max_response_length`` is
``--max-response-length``), so a field name occurs in one section only. Names and meanings follow Megatron-LM where it
has them. The range of a number is part of its type (:mod:`megatron_pz.config.validate_ranges`).
"[P]" marks a value that the PretrainZero paper (arXiv 2512.03442v1) states, "[C]" a choice where the paper is silent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from megatron_pz.config.field_types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Seed
from megatron_pz.config.question_schema import QuestionConfig
from megatron_pz.config.supervised_schema import ColdStartConfig, SupervisedConfig

PassiveStrategy = Literal["random_span", "random_next_token", "entropy_next_token"]
"""The paper's baselines: masks chosen at random, or by the policy's entropy."""
MaskStrategy = Literal["active", "random_span", "random_next_token", "entropy_next_token"]


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained model that the run starts from, and the precision in which the trainer computes with it."""

    hf_model: str = ""
    """Directory of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json): Qwen3, Qwen3-MoE,
    Llama or SmolLM3."""
    tokenizer_model: str = ""
    """Directory of the Hugging Face tokenizer; empty: the one in hf_model."""
    make_vocab_size_divisible_by: PositiveInt = 128
    """The vocabulary is padded to a multiple of this times the tensor parallel size."""
    moe_aux_loss_coeff: NonNegativeFloat = 0.0
    """Weight of the load-balancing loss of a mixture of experts [C]; 0, the default, is off as in GRPO runs.

    It is the mean over packed sequences including padding, so it depends slightly on the packing.
    """
    moe_enable_routing_replay: bool = False
    """Mixtures of experts only: the trainer routes each token to the experts that the rollout engine chose (rollout
    routing replay, R3, arXiv 2510.11370) [C]. Their weights still come from the trainer's router, which learns. The
    reference policy also replays. Megatron-LM's name."""
    precision: Literal["auto", "bf16", "fp32", "custom"] = "custom"
    """Precision of trainer and rollouts together; sets bf16, rollout_dtype and, if it is 0, max_log_prob_difference.
    auto: the precision of the checkpoint that the run resumes, otherwise bf16 on a GPU, and on a CPU the one with the
    faster matrix products, measured at the start. custom: bf16 and rollout_dtype apply [C]."""
    bf16: bool = True
    """Compute in bfloat16 with float32 master weights; false computes in float32."""
    fp8_format: Literal["none", "hybrid", "e4m3"] = "none"
    """Multiply the layers' matrices in FP8 by Transformer Engine; needs bf16 and a GPU of capability 8.9 or more.
    hybrid: gradients of activations are e5m2, all else e4m3. The default is off [C]; the paper names no format."""
    fp8_recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = "tensorwise"
    """Source of FP8's scales: the maxima of earlier steps, of the tensor itself, of blocks of 128 (CUDA 12.9), or of
    blocks of 32 (Blackwell) [C]. tensorwise needs no state from earlier batches; Megatron-LM's default is delayed."""
    fp8_param_gather: bool = False
    """Keep the weights of FP8 layers in FP8 only and gather them in FP8; needs use_distributed_optimizer [C]."""
    first_last_layers_bf16: bool = False
    """Leave the first and the last layers in bfloat16; not with the recipe delayed [C]."""
    num_layers_at_start_in_bf16: NonNegativeInt = 1
    num_layers_at_end_in_bf16: NonNegativeInt = 1
    """Number of layers that first_last_layers_bf16 covers (Megatron-LM's defaults)."""


@dataclass(frozen=True)
class ParallelConfig:
    """Layout of the trainer's model over the processes. Sizes are numbers of ranks; names are Megatron-LM's."""

    tensor_model_parallel_size: PositiveInt = 1
    pipeline_model_parallel_size: PositiveInt = 1
    sequence_parallel: bool = False
    """Each tensor parallel rank holds only its share of the tokens between the linear layers."""
    use_distributed_optimizer: bool = False
    """Each data parallel rank keeps and updates only its share of the optimizer state."""
    distributed_timeout_minutes: PositiveFloat = 30.0
    """A collective that waits longer than this ends the run with an error that names it."""
    heartbeat_timeout_minutes: PositiveFloat = 2.0
    """A rank without a heartbeat for this time counts as lost, and the run ends with one line that names it [C]."""
    context_parallel_size: PositiveInt = 1
    """Ranks that share the tokens of one packed sequence; keys and values are gathered, so the result is exact."""
    expert_model_parallel_size: PositiveInt = 1
    """Ranks that share the experts of a mixture, taken from the data, context and tensor parallel ranks."""
    expert_tensor_parallel_size: NonNegativeInt = 0
    """Ranks that share each expert's matrices; 0: tensor_model_parallel_size. Others need expert parallelism."""
    virtual_pipeline_model_parallel_size: PositiveInt = 1
    """Model chunks on each pipeline stage (the interleaved schedule); 1: plain 1F1B."""
    decoder_first_pipeline_num_layers: NonNegativeInt = 0
    """Layers of the first pipeline stage, which also has the embedding; 0: as many as the others."""
    decoder_last_pipeline_num_layers: NonNegativeInt = 0
    """Layers of the last pipeline stage, which also has the output layer; 0: as many as the others."""
    overlap_grad_reduce: bool = False
    """Reduce gradients bucket by bucket while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated weights while the next forward pass runs; needs use_distributed_optimizer, overlap_grad_reduce."""
    recompute_granularity: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass recomputes: none, those of the core attention, or of whole layers."""
    recompute_method: Literal["uniform", "block"] = "uniform"
    """Units of full recomputation: groups of recompute_num_layers layers, or each of the first recompute_num_layers."""
    recompute_num_layers: PositiveInt = 1
    packed_length_multiple: PositiveInt = 1
    """Packed sequences are padded to a multiple of this on each rank that shares them: FP8 needs 16, mxfp8 32."""


@dataclass(frozen=True)
class DataConfig:
    """Passages that the run reads."""

    data_path: tuple[str, ...] = ()
    """Prefixes of .bin/.idx passage datasets, or alternating weights and prefixes (a Megatron blend)."""
    valid_data_path: tuple[str, ...] = ()
    """Held-out passages for evaluation during the run; empty: no evaluation."""
    min_passage_words: NonNegativeInt = 0
    """Passages with fewer words are not drawn."""
    max_passage_words: NonNegativeInt = 0
    """Passages with more words are not drawn; 0: only the prompt budget limits them."""


@dataclass(frozen=True)
class GameConfig:
    """The rules of the min-max game between mask generator and mask predictor (paper, sections 3 and 4)."""

    prompt_family: str = "qwen3"
    """Directory of prompt templates under megatron_pz/roles/templates/, or a path to such a directory."""
    policy_sharing: Literal["shared", "separate"] = "shared"
    """``shared``: one set of weights plays both roles [P]. ``separate``: each role has its own weights, optimizer,
    learning rate and rollout engine, and learns from its own samples; both start from hf_model [C]."""
    mask_strategy: MaskStrategy = "active"
    """Source of the masks: the generator [P], or one of the paper's passive baselines."""
    passive_warmup_iters: NonNegativeInt = 0
    """Number of first steps that use warmup_mask_strategy in place of the generator [C]; 100 for SmolLM3 [P]."""
    warmup_mask_strategy: PassiveStrategy = "random_span"
    """Source of the masks during passive_warmup_iters [P]."""
    entropy_top_share: Annotated[float, Gt(0), Le(1)] = 0.2
    """``entropy_next_token`` draws from this share of a passage's words, those of highest entropy [P, after RPT]."""
    passages_per_step: PositiveInt = 32
    """Passages drawn in a step [P]."""
    masks_per_passage: PositiveInt = 8
    """Generator rollouts of one passage: the generator's group [P]."""
    grpo_group_size: int = 8
    """Predictor rollouts of one mask: the predictor's group, G [P]. Answers to one question, in question answering."""
    span_policy: Literal["default", "one_mask", "words"] = "default"
    """Rules for valid spans and for the occurrences that are replaced [P, section 4.4]."""
    max_span_occurrences: Annotated[int, Ge(2)] = 8
    """A mask is kept only if its span occurs fewer times than this in the passage [P]."""
    whole_words: bool = False
    """Require whole-word spans under any span policy (the policy ``words`` implies it)."""
    max_span_words: NonNegativeInt = 0
    """Longest span in words; 0: no bound [C]."""
    leak_guard: bool = False
    """Reject a span that survives elsewhere in the passage under another case or inflection [C]."""
    answer_normalization: Literal["strip_nfc", "casefold", "none"] = "strip_nfc"
    """Normalization of an answer and its target before the exact comparison [C]."""
    invalid_mask_penalty: Annotated[float, Le(0)] = 0.0
    """Reward of a rollout that names no valid mask; zero or negative [C] (SPICE uses -0.1)."""
    generator_reward: Literal["one_minus_accuracy", "variance", "gaussian"] = "one_minus_accuracy"
    """Equation 9 [P]; the other two are SPICE's, p(1-p) and exp(-(p(1-p)-0.25)^2/0.02)."""
    share_equal_masks: bool = False
    """Proposals of one passage that name the same span are predicted once and share the accuracy; false predicts every
    proposal separately, as the paper's batch sizes imply [C]."""
    dynamic_sampling: bool = False
    """Draw further passages until the step has passages_per_step groups with unequal rewards (DAPO) [C]. Groups of the
    generator count, or of the predictor if masks are passive. In question answering, of questions_per_step."""
    max_sampling_rounds: PositiveInt = 3
    """Maximum number of draws in a step with dynamic_sampling."""
    max_predictor_groups: NonNegativeInt = 0
    """Maximum number of mixed predictor groups that enter the update, drawn at random; 0: all [P]."""


@dataclass(frozen=True)
class RolloutConfig:
    """The vLLM engines that sample masks and predictions."""

    max_prompt_length: Annotated[int, Ge(8)] = 1536
    """Maximum number of tokens of a prompt [P]."""
    max_response_length: PositiveInt = 4096
    """Maximum tokens of a response [P]; one that reaches it is truncated, and earns 0 or names no mask [C]."""
    generator_max_response_length: NonNegativeInt = 0
    """Limit for the generator alone, at most max_response_length; 0: the same [C]. Short responses are cheap."""
    temperature: float = 1.0
    """[C] Anything but 1 is refused: the log-probabilities that the update uses are those of temperature 1."""
    top_p: float = 1.0
    """[C] Anything but 1 is refused: truncation would bias the probability ratio."""
    top_k: int = 0
    """[C] 0 is off. Anything else is refused, for the same reason."""
    rollout_tensor_parallel_size: PositiveInt = 1
    """Neighbouring ranks that share one engine (vLLM's tensor parallelism), for models that do not fit beside the
    trainer on one device [C]. Independent of the trainer's layout; must divide the number of processes, or of
    rollout_ranks if there are any."""
    rollout_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    rollout_quantization: Literal["none", "fp8"] = "none"
    """GPU only: vLLM quantises the weights that it receives, and its activations, to FP8 [C]. Tokens are then sampled
    from another distribution than the trainer's, so a mismatch_correction is required."""
    rollout_max_num_seqs: PositiveInt = 128
    """Maximum number of sequences that one engine decodes at once."""
    rollout_speculative_tokens: Annotated[int, Ge(0), Le(64)] = 0
    """Maximum number of draft tokens that one forward pass of a response verifies, 0: none [C]. Drafts repeat the
    continuation of an earlier occurrence of the last tokens in prompt or response (vLLM's n-gram drafts): answers that
    quote the passage get several tokens per pass. Tokens stay those of their seeds, and log-probabilities exact."""
    rollout_speculative_max_seqs: NonNegativeInt = 0
    """Draft only while an engine decodes at most this many responses, as in a tail; 0: always [C]. With more responses
    drafts can cost more computation than they save; ``benchmarks.rollout.drafts`` measures the break-even point."""
    rollout_memory_gib: PositiveFloat = 1.0
    """CPU only: KV cache of one engine, GiB."""
    sleep_during_update: bool = True
    """GPU only: during the update the engine's weights are offloaded to host memory and its KV cache is freed [C]. Not
    with two engines in a process (policy_sharing ``separate``), which vLLM's sleep mode does not support."""
    gpu_memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.6
    """GPU only: vLLM's share of the GPU's memory, which two engines (policy_sharing ``separate``) divide."""
    rollout_timeout_minutes: PositiveFloat = 25.0
    """Deadline of an engine call (a rank's share of a draw's prompts), after which the run ends with a line that names
    rank and host. Below distributed_timeout_minutes, since the other ranks wait in a collective [C]."""
    generator_ahead: bool = False
    """Propose the masks of the next step in the engine call that samples the predictions of this one, so that a step
    waits for one tail instead of two. The generator's samples are then one update old, which its loss corrects by the
    ratio to the weights that sampled them. Off in the paper; asynchronous GRPO (NeMo-RL, AReaL) does this for all
    samples [C]."""
    rollout_ranks: NonNegativeInt = 0
    """Number of processes, the last ones of the job, that hold only engines; the others hold only the trainer. The
    experience of a step is then sampled during the update of the previous step. It is one update old, which the loss
    corrects as with generator_ahead. 0: every process holds an engine and a shard of the trainer. Off in the paper;
    one-step off-policy GRPO (NeMo-RL) [C]."""
    sync_timeout_minutes: PositiveFloat = 10.0
    """Deadline of an engine's start, sleep, waking and end, and of one weight sync into the engines [C]."""
    max_engine_restarts: NonNegativeInt = 2
    """Restarts of failed engines since the run began or resumed; the next failure ends the run [C]. A restarted engine
    gets the current weights and generates its prompts again from the same seeds."""
    max_log_prob_difference: NonNegativeFloat = 0.0
    """Mean |log p(rollout) - log p(trainer)| over a step's sampled tokens above which the run stops: the engine does
    not hold the trainer's weights. 0: 0.01 if both compute in float32, else 0.3 [C]. bf16 on both sides is about
    0.03-0.05, float32 1e-5; FP8 rollouts of a model of 135 M parameters about 0.2 (emulated)."""

    def longest_response(self, role: Literal["generator", "predictor", "solver"]) -> int:
        """Return the maximum number of tokens of a response of the role."""
        own = self.generator_max_response_length if role == "generator" else 0
        return own or self.max_response_length


@dataclass(frozen=True)
class GrpoConfig:
    """Advantages and loss (equations 10 and 11)."""

    grpo_clamp_eps_lower: Annotated[float, Gt(0), Lt(1)] = 0.2
    """[C] DAPO's value: the ratio is clipped below 1 - this."""
    grpo_clamp_eps_upper: PositiveFloat = 0.28
    """[C] DAPO's value ("clip-higher"): the ratio is clipped above 1 + this."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Ratio that is clipped: each token's own (equation 11) [P], or that of the whole response, the geometric mean of
    its tokens' ratios (GSPO, arXiv 2507.18071)."""
    gspo_clamp_eps_lower: Annotated[float, Gt(0), Lt(1)] = 3e-4
    gspo_clamp_eps_upper: PositiveFloat = 4e-4
    """[C] GSPO's values (section 5.1): the clip range of a response's ratio, in place of grpo_clamp_eps_*."""
    grpo_dual_clip: float = 0.0
    """Tokens of negative advantage have no gradient above this ratio (dual-clip PPO, arXiv 1912.09729, which uses 3);
    above 1, or 0 for off [C]."""
    grpo_kl_beta: NonNegativeFloat = 0.0
    """Weight of the KL penalty to the run's initial weights; 0 is off [P]. Any other value keeps a second copy of the
    model in host memory and adds a forward pass with it."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence (Schulman 2020); GRPO (arXiv 2402.03300) uses k3."""
    advantage_scale: Literal["group_std", "none"] = "group_std"
    """Divide by the group's standard deviation (equation 10) [P], or not (Dr. GRPO)."""
    loss_aggregation: Literal["sequence_mean", "token_mean", "token_sum_constant"] = "sequence_mean"
    """Equation 11 [P], DAPO, Dr. GRPO."""
    updates_per_step: PositiveInt = 1
    """Minibatches of a step: optimizer steps on its experience, each on another share of the groups [C]."""
    grpo_iterations: PositiveInt = 1
    """Epochs over a step's experience, each of updates_per_step optimizer steps on the same shares [C]."""
    mismatch_correction: Literal["tis", "icepop", "off"] = "tis"
    """Correction of a token's loss for the different probabilities of trainer and rollout [C]."""
    tis_cap: PositiveFloat = 2.0
    """Truncated importance sampling: the weight is min(p_trainer / p_rollout, this) [C]."""
    icepop_lower: NonNegativeFloat = 0.5
    icepop_upper: float = 5.0
    """IcePop: tokens whose p_trainer / p_rollout lies outside (icepop_lower, icepop_upper) are masked out [C]."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule. Iterations are steps of the training loop."""

    lr: PositiveFloat = 5e-7
    """Learning rate after the warm-up [P]."""
    generator_lr: NonNegativeFloat = 0.0
    """Learning rate of the generator with policy_sharing ``separate``; 0: the same as lr [C]."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay of the learning rate over train_iters; cosine [P]."""
    lr_warmup_iters: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly from lr_warmup_init to lr."""
    lr_warmup_init: NonNegativeFloat = 0.0
    """Learning rate of the first step, where the warm-up begins. Megatron-LM's name."""
    weight_decay: NonNegativeFloat = 0.0
    adam_beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    adam_beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    adam_eps: PositiveFloat = 1e-8
    clip_grad: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0: no clipping."""
    rl_offload_optimizer_during_inference: bool = False
    """GPU only: while the engines sample, the optimizer state is offloaded to host memory and the gradients are freed;
    needs bf16 [C]. Megatron-LM's name."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batching, checkpoints and logs of the run."""

    train_iters: PositiveInt = 2000
    """Number of steps [P]."""
    train_flops: NonNegativeFloat = 0.0
    """End after the step in which the metric ``compute/flops`` reaches this, or earlier after train_iters [C]; 0: no
    bound. The learning rate must be constant, since a decay counts steps."""
    micro_batch_tokens: PositiveInt = 16384
    """Maximum number of tokens in one forward pass, after shared-prompt packing."""
    seed: Seed = 1234
    """Seed of passages, samples and random masks."""
    save: str = ""
    """Directory of the run: checkpoints, metrics, samples. It must be new, or hold a run that ``load`` resumes."""
    load: str = ""
    """Directory to resume from; the same as ``save`` to continue an interrupted run."""
    save_interval: NonNegativeInt = 100
    """Steps between checkpoints; the last step is always saved. 0: no checkpoints at all, for measurements."""
    keep_last: NonNegativeInt = 3
    """Number of newest checkpoints that are kept; 0: all."""
    keep_every: NonNegativeInt = 0
    """Checkpoints of iterations that are a multiple of this are never deleted; 0: none [C]."""
    async_save: bool = False
    """Write checkpoints in a background thread: the step waits for a copy in host memory, not for the disk [C]."""
    log_interval: PositiveInt = 1
    sampled_passages: NonNegativeInt = 2
    """Passages of a step whose masks and predictions are stored as samples, within samples_budget_mib; 0: none [C]."""
    sampled_questions: NonNegativeInt = 4
    """The same for the questions of megatron_pz.rlvr, out of those that rank 0 asked in a step [C]."""
    samples_budget_mib: NonNegativeFloat = 512.0
    """Maximum size of samples.jsonl and samples/ together, in MiB: beyond it, samples of older steps are thinned out
    evenly. 0: no limit [C]."""
    eval_interval: NonNegativeInt = 0
    """Steps between held-out evaluations; 0: none."""
    eval_passages: PositiveInt = 200
    """Held-out passages in an evaluation."""
    benchmark_interval: NonNegativeInt = 0
    """Steps between benchmark evaluations; 0: none [C]. With policy_sharing ``separate``, the predictor answers."""
    benchmarks: tuple[str, ...] = ()
    """Benchmarks that are asked, such as gsm8k and mmlu_pro (docs/evaluation.md)."""
    benchmark_data: str = ""
    """Directory with a subdirectory for each benchmark, in its public schema."""
    benchmark_recipe: Literal["general_reasoner", "authors"] = "general_reasoner"
    """Prompts and graders: General-Reasoner's [P], or those of each benchmark's authors."""
    benchmark_prompt_format: Literal["recipe", "chat", "plain"] = "recipe"
    """The recipe's own choice, the model's chat template, or a plain completion."""
    benchmark_questions: PositiveInt = 100
    """Maximum number of questions of each benchmark, a fixed random slice [C]."""
    benchmark_max_tokens: NonNegativeInt = 0
    """Upper bound on the recipe's maximum number of response tokens; 0: no further bound. Prompt and response together
    are also limited to max_prompt_length + max_response_length."""
    wandb_project: str = ""
    """Also log to Weights & Biases under this project (needs the package wandb)."""


@dataclass(frozen=True)
class CollapseConfig:
    """Signs of collapsed training, which are checked after every step (:mod:`megatron_pz.monitoring.collapse`)."""

    stop_on_collapse: bool = False
    """End the run after a checkpoint, with exit code 4; false only prints a warning [C]."""
    collapse_window: PositiveInt = 5
    """Consecutive steps that must all show a sign [C]: in a single step of few groups it can be chance."""
    collapse_mixed_share: Annotated[float, Ge(0), Lt(1)] = 0.01
    """Share of groups with unequal rewards at or below which nothing is learned: equal rewards have no advantage
    (equation 10). 0.01 and not 0, because one mixed group of a hundred does not train the policy either [C]."""
    collapse_entropy_floor: NonNegativeFloat = 0.02
    """Nats a token at or below which a role no longer explores: rewards saturate as the entropy nears 0
    (arXiv 2505.22617). The quickstart's lowest is 0.3 [C]."""
    collapse_entropy_growth: Annotated[float, Gt(1)] = 4.0
    """Multiple of its mean over the run's first steps at which an entropy has diverged [C]: text turns into noise."""
    collapse_truncated_share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of truncated responses at which lengths have diverged, if the run began below it [C]: a truncated response
    earns nothing, so that half of the rollouts are lost."""
    collapse_validity_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Share of its best earlier mean below which valid masks or readable answers have fallen [C]."""


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of ``python -m megatron_pz.train``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    game: GameConfig = field(default_factory=GameConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    supervised: SupervisedConfig = field(default_factory=SupervisedConfig)
    questions: QuestionConfig = field(default_factory=QuestionConfig)
