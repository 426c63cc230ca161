"""Sample the rollouts of a step over all ranks: prompts of both roles, masks, rewards, and the exchange between ranks.

Every engine samples its share of the prompts (:mod:`.engine_calls`). The ranks exchange spans, rewards and the groups
that are trained on, never logits or weights. Nothing here depends on the trainer's parallel layout.

Every sample is drawn with a seed of (run seed, rng_key, role, index), so a step repeats exactly, whatever ran before
it. The ``rng_key`` names the draw of passages: the step's iteration and, with dynamic sampling, the number of the draw
within it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from megatron_pz.algorithm.engine_calls import EngineCalls, Name, SampledGroup, SampleKey
from megatron_pz.algorithm.rank_shares import RankShares
from megatron_pz.algorithm.role_sampler import PredictedMask, ProposedMasks, RoleSampler, Tokenizer
from megatron_pz.algorithm.work_shares import MeanLengths, Prompts, Work
from megatron_pz.config.schema import GameConfig, PassiveStrategy, RolloutConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.rl.experience import Response, Role, SampleRequest
from megatron_pz.rl.statistics import GAME_ROLES
from megatron_pz.roles.spans import MaskedPassage
from megatron_pz.roles.strategies import passive_mask
from megatron_pz.rollout.fault_tolerance import RestartingEngine
from megatron_pz.rollout.requests import Answers
from megatron_pz.trainer.topology import Topology

MaskKey = tuple[int, int]
"""Index of the passage in the step, and index of the mask among the passage's proposals."""


@dataclass(frozen=True)
class Draw:
    """Passages that were drawn together."""

    passages: Sequence[Passage]
    """The same on every rank."""
    rng_key: str


@dataclass(frozen=True)
class Proposals(ProposedMasks):
    """The mask generator's responses to one passage of the step."""

    passage_index: int
    """Index of the passage in the step."""
    passage: Passage

    def keys(self, share_equal: bool) -> list[MaskKey | None]:
        """Return the key of each response's mask, or None for a response without a valid mask.

        With ``share_equal``, responses that propose the same span share the first one's key.
        """
        spans = [mask.span for mask in self.masks]
        return [
            None if span is None else (self.passage_index, spans.index(span) if share_equal else sample)
            for sample, span in enumerate(spans)
        ]


@dataclass(frozen=True)
class Mask:
    """One masked passage for the predictor."""

    key: MaskKey
    masked: MaskedPassage


@dataclass(frozen=True)
class Predictions(PredictedMask):
    """The mask predictor's responses to one mask of the step, with the reward of each (equation 8)."""

    mask: Mask


class RolloutWorker(RankShares):
    """Samples this rank's share of a step's rollouts in both roles and exchanges the results with the other ranks."""

    def __init__(
        self,
        game: GameConfig,
        rollout: RolloutConfig,
        seed: int,
        tokenizer: Tokenizer,
        engines: Mapping[Role, RestartingEngine],
        topology: Topology,
        lengths: MeanLengths,
    ) -> None:
        """Prepare the prompts.

        Args:
            engines: one per role, the same one twice if one policy plays both.
            lengths: running means of the responses' lengths, which every call of the engines updates.
        """
        super().__init__(seed, topology)
        self.game, self.tokenizer, self.engines = game, tokenizer, engines
        self.limits = {role: rollout.longest_response(role) for role in GAME_ROLES}
        self.sampler = RoleSampler(game, tokenizer, engines, self.limits)
        ranks_of_engine = rollout.rollout_tensor_parallel_size
        stop = self.sampler.family.stop
        self.calls = EngineCalls(engines, self.sampler, ranks_of_engine, topology, self.from_all_ranks, lengths, stop)

    def propose(self, draw: Draw) -> list[Proposals]:
        """Sample the generator on the passages of a draw: m ~ pi(. | s). Collective, as all methods that sample."""
        return self._proposals(draw, self.calls.sample([self._passages(draw)], lambda work: self._to_mask(draw, work)))

    def predict(
        self, masks: Sequence[Mask], rng_key: str, ahead: Draw | None = None
    ) -> tuple[list[Predictions], list[Proposals]]:
        """Sample the predictor on masks, x ~ psi(. | m, s), and the generator on ``ahead`` in the same call."""
        prompts = [Prompts("predictor", masks, self.game.grpo_group_size, self.calls.lengths.of("predictor"))]
        prompts += [self._passages(ahead)] if ahead else []

        def requests(work: Work) -> list[SampleRequest]:
            if ahead and work.role == "generator":
                return self._to_mask(ahead, work)
            return [self._to_predict(work.item, work.samples, rng_key)]

        groups = self.calls.sample(prompts, requests)
        return self._predictions(masks, groups), self._proposals(ahead, groups) if ahead else []

    def play(self, draw: Draw) -> tuple[list[Proposals], list[Predictions]]:
        """Sample the generator on a draw and the predictor on the masks that it proposes.

        An engine that serves both roles starts to predict a mask as soon as the mask is read. With
        ``share_equal_masks`` the prediction waits for the passage's earlier samples, because equal masks share the key
        of the first. All predictions wait for all proposals in two cases: each role has an engine of its own, so that
        one batch cannot hold both, or equal masks may come from different engines.
        """
        one_engine = self.engines["generator"] is self.engines["predictor"]
        if not one_engine or (self.game.share_equal_masks and len(draw.passages) < self.calls.count):
            proposals = self.propose(draw)
            return proposals, self.predict(self.masks_of(proposals, draw.rng_key), draw.rng_key)[0]
        masks: dict[MaskKey, Mask] = {}

        def follow(key: Hashable, answers: Answers) -> list[SampleRequest]:
            assert isinstance(key, SampleKey)
            new = self._newly_proposed(draw, key, answers) if key.role == "generator" else []
            masks.update((mask.key, mask) for mask in new)
            return [self._to_predict(mask, range(self.game.grpo_group_size), draw.rng_key) for mask in new]

        groups = self.calls.sample([self._passages(draw)], lambda work: self._to_mask(draw, work), follow)
        return self._proposals(draw, groups), self._predictions(masks.values(), groups)

    def _passages(self, draw: Draw) -> Prompts:
        indices = range(len(draw.passages))
        return Prompts("generator", indices, self.game.masks_per_passage, self.calls.lengths.of("generator"))

    def _to_mask(self, draw: Draw, work: Work) -> list[SampleRequest]:
        """Request samples of masks one by one, so that each can be read as soon as it is complete."""
        prompt = tuple(self.sampler.generator_prompt(draw.passages[work.item].text))
        seed, limit = self.seed_of(draw.rng_key, "generator", work.item), self.limits["generator"]
        return [
            SampleRequest(SampleKey("generator", work.item, sample), prompt, seed, range(sample, sample + 1), limit)
            for sample in work.samples
        ]

    def _to_predict(self, mask: Mask, samples: range, rng_key: str) -> SampleRequest:
        """Request predictions of a mask."""
        prompt = tuple(self.sampler.predictor_prompt(mask.masked))
        seed = self.seed_of(rng_key, "predictor", *mask.key)
        key = SampleKey("predictor", mask.key, samples.start)
        return SampleRequest(key, prompt, seed, samples, self.limits["predictor"])

    def _newly_proposed(self, draw: Draw, key: SampleKey, answers: Answers) -> list[Mask]:
        """Read the masks that a finished generator sample makes available.

        These are the sample's own mask or, with shared masks, all that waited for it.
        """
        passage = draw.passages[key.item].text
        names = [SampleKey("generator", key.item, sample) for sample in range(self.game.masks_per_passage)]
        first, end = key.sample, key.sample + 1
        if self.game.share_equal_masks:
            if any(name not in answers for name in names[:first]):
                return []
            end = next((sample for sample, name in enumerate(names) if name not in answers), len(names))
        spans: dict[int, str | None] = {}
        for sample in range(0 if self.game.share_equal_masks else first, end):
            (response,) = answers[names[sample]]
            spans[sample] = self.sampler.generator.read(response.text, response.truncated, passage).span
        return [
            self._mask(span, passage, (key.item, sample), draw.rng_key)
            for sample, span in spans.items()
            if sample >= first
            and span is not None
            and span not in [spans[earlier] for earlier in spans if earlier < sample]
        ]

    def _mask(self, span: str, passage: str, key: MaskKey, rng_key: str) -> Mask:
        return Mask(key, self.sampler.spans.apply(span, passage, self.random(rng_key, "place", *key)))

    def _proposals(self, draw: Draw, groups: Mapping[Name, SampledGroup]) -> list[Proposals]:
        """Read the masks in this rank's generator groups."""
        return [
            self.read(draw, index, group.prompt_ids, group.responses)
            for (role, index), group in groups.items()
            if role == "generator"
        ]

    def read(self, draw: Draw, index: int, prompt: Sequence[int], responses: Sequence[Response]) -> Proposals:
        """Read the masks that responses to a passage of the draw propose."""
        read = self.sampler.read(draw.passages[index].text, prompt, responses)
        return Proposals(read.prompt_ids, read.responses, read.masks, index, draw.passages[index])

    def read_again(self, draw: Draw, index: int, responses: Sequence[Response]) -> Proposals:
        """Read the masks of stored responses; the prompt is rebuilt from the passage."""
        return self.read(draw, index, self.sampler.generator_prompt(draw.passages[index].text), responses)

    def score_again(self, mask: Mask, responses: Sequence[Response]) -> Predictions:
        """Score the stored responses to a mask."""
        scored = self.sampler.score(mask.masked, self.sampler.predictor_prompt(mask.masked), responses)
        return Predictions(scored.prompt_ids, scored.responses, scored.rewards, mask)

    def _predictions(self, masks: Iterable[Mask], groups: Mapping[Name, SampledGroup]) -> list[Predictions]:
        """Score this rank's predictor groups."""
        by_key = {mask.key: mask for mask in masks}
        predictions = []
        for (role, key), group in groups.items():
            if role == "predictor":
                mask = by_key[key]
                scored = self.sampler.score(mask.masked, group.prompt_ids, group.responses)
                predictions.append(Predictions(scored.prompt_ids, scored.responses, scored.rewards, mask))
        return predictions

    def masks_of(self, proposals: Sequence[Proposals], rng_key: str) -> list[Mask]:
        """Collect the valid masks of all ranks, sorted by key. Collective."""
        mine = [
            self._mask(span, group.passage.text, key, rng_key)
            for group in proposals
            for key, span in {
                key: mask.span
                for key, mask in zip(group.keys(self.game.share_equal_masks), group.masks, strict=True)
                if key is not None and mask.span is not None
            }.items()
        ]
        return sorted(self.from_all_ranks(mine), key=lambda mask: mask.key)

    def passive_masks(
        self,
        draw: Draw,
        strategy: PassiveStrategy,
        entropies: Sequence[Sequence[float]] | None = None,
    ) -> list[Mask]:
        """Draw masks by a passive strategy, one of the paper's baselines, the same on every rank.

        ``entropies``: for ``entropy_next_token``, per passage, as
        :func:`~megatron_pz.algorithm.word_entropy.word_entropies` returns them.
        """
        samples = range(self.game.masks_per_passage)
        keys = [(index, sample) for index in range(len(draw.passages)) for sample in samples]
        drawn = [
            (
                key,
                passive_mask(
                    strategy,
                    draw.passages[key[0]].text,
                    self.sampler.spans,
                    self.random(draw.rng_key, strategy, *key),
                    entropies[key[0]] if entropies else (),
                    self.game.entropy_top_share,
                ),
            )
            for key in keys
        ]
        return [Mask(key, masked) for key, masked in drawn if masked is not None]

    def accuracies(self, predictions: Sequence[Predictions]) -> dict[MaskKey, float]:
        """Return the mean predictor reward of every mask of the step. Collective."""
        return dict(self.from_all_ranks([(group.mask.key, group.accuracy) for group in predictions]))

    def generator_rewards(self, group: Proposals, accuracy: Mapping[MaskKey, float]) -> list[float]:
        """Reward each response of a generator group by the accuracy of its mask (equation 9)."""
        keys = group.keys(self.game.share_equal_masks)
        accuracies = [None if key is None else accuracy[key] for key in keys]
        return self.sampler.generator.rewards(group.masks, accuracies, self.game)
