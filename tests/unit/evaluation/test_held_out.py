"""The held-out evaluation with a scripted engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from megatron_pz.config.schema import DataConfig, GameConfig
from megatron_pz.corpus.passages import Passage
from megatron_pz.evaluation.held_out_masks import evaluate
from megatron_pz.evaluation.passages import candidates, choose, share_of_rank
from megatron_pz.evaluation.results import Evaluation, EvaluationSettings, merge
from megatron_pz.evaluation.summary import rows, summarize, values
from megatron_pz.rl.experience import Response
from megatron_pz.runtime.errors import BadInput

GAME = GameConfig(prompt_family="quote", span_policy="one_mask", whole_words=True, invalid_mask_penalty=-0.2)
SETTINGS = EvaluationSettings(max_prompt_length=400, max_response_length=7)
RIVER = "The river bends near Linz and the river widens below Vienna."
HILL = "A castle stands on one hill above Graz."


class Characters:
    """A tokenizer whose tokens are characters."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens, "prompts are plain completion prompts"
        return [ord(character) for character in text]


@dataclass
class ScriptedEngine:
    """Answers sample k of a prompt with ``answer(prompt, k)`` and records its prompts."""

    answer: Callable[[str, int], str]
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    """Prompt, seed and number of samples."""
    calls: int = 0
    limits: list[int] = field(default_factory=list)
    """Tokens that each call allows."""

    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, *, seeds: Sequence[int], max_tokens: int, stop: Sequence[str]
    ) -> list[list[Response]]:
        self.calls += 1
        self.limits.append(max_tokens)
        assert list(stop) == ["}", "\n"]
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.asked += [(text, seed, n) for text, seed in zip(texts, seeds, strict=True)]
        return [[respond(self.answer(text, k)) for k in range(n)] for text in texts]


def respond(text: str) -> Response:
    return Response((1, 2, 3), (-0.5, -1.0, -1.5), text, truncated=text.endswith("…"))


def player(prompt: str, k: int) -> str:
    """Mask ``river`` first and nonsense second; find ``river`` in one of four tries and no other word."""
    if prompt.startswith("Paragraph: The river"):
        return [" The \\mask{river}", " the \\mask{ocean}"][k]
    if prompt.startswith("Paragraph:"):
        return [" a \\mask{hill}", " and so on…"][k]
    return " the \\boxed{river}" if k % 4 == 1 else " I do not know…"


@pytest.mark.parametrize("passages", [[], [RIVER], [RIVER, HILL]])
def test_every_rank_calls_its_engine_equally_often(passages: list[str]) -> None:
    """A call is a collective of all ranks, which a rank with fewer passages or without a valid mask must not omit."""
    silent, engine = ScriptedEngine(lambda prompt, k: " nothing"), ScriptedEngine(player)
    for each in (silent, engine):
        evaluate("p", each, Characters(), passages, GAME, SETTINGS)
    assert silent.calls == engine.calls == 4
    assert engine.limits == [SETTINGS.max_response_length] * 4


def test_the_generator_may_have_a_limit_of_its_own() -> None:
    engine = ScriptedEngine(player)
    settings = dataclasses.replace(SETTINGS, generator_max_response_length=5)
    evaluate("p", engine, Characters(), [RIVER], GAME, settings)
    assert engine.limits == [5, 7, 7, 7]


def test_results_are_those_worked_out_by_hand() -> None:
    engine = ScriptedEngine(player)
    result = evaluate("p", engine, Characters(), [RIVER, HILL], GAME, SETTINGS)
    river, hill = result.passages

    assert [mask.fault for mask in river.own] == ["ok", "absent"]
    assert [mask.fault for mask in hill.own] == ["ok", "truncated"]
    # Right in samples 1 and 5 of 8: accuracy 1/4, reward 3/4. `hill` is never found: accuracy 0, reward 0.
    assert river.own[0].predictions is not None
    assert (river.own[0].predictions.accuracy, river.own[0].reward) == (0.25, 0.75)
    assert (river.own[1].predictions, river.own[1].reward) == (None, 0.0)
    assert hill.own[0].predictions is not None
    assert (hill.own[0].predictions.accuracy, hill.own[0].reward) == (0.0, 0.0)
    # `river` is the one repeated word; HILL has none. One sample in four is right, and one in four is readable.
    assert river.repeated is not None
    assert (river.repeated.span, river.repeated.accuracy, river.repeated.readable) == ("river", 0.25, 0.25)
    assert hill.repeated is None
    assert hill.once is not None
    assert (hill.once.accuracy, hill.once.readable, hill.once.length) == (0.0, 0.25, 3.0)

    means = {name: found.mean for name, found in summarize(result).items()}
    assert means["valid_masks"] == 0.5
    assert means["fault_absent"] == means["fault_truncated"] == 0.25
    assert means["generator_reward"] == 0.1875
    assert means["own_accuracy"] == 0.125
    assert (means["own_mixed"], means["own_all_zero"], means["own_all_one"]) == (0.5, 0.5, 0.0)
    assert means["repeated_accuracy"] == 0.25
    assert means["generator_entropy"] == 1.0
    assert values(result, "repeated_accuracy") == [0.25, None]


def test_every_question_is_asked_as_often_as_the_settings_say() -> None:
    engine = ScriptedEngine(player)
    settings = dataclasses.replace(SETTINGS, samples_per_repeated_word=5, samples_per_once_word=3)
    evaluate("toy", engine, Characters(), [HILL, RIVER], GAME, settings)
    asked = [n for _, _, n in engine.asked]
    assert asked[:2] == [2, 2], "two masks of each passage"
    assert asked[2:] == [8, 8, 5, 3, 3], (
        "a valid mask of each, a repeated word in one of them, a once-only word in both"
    )
    assert len({seed for _, seed, _ in engine.asked}) == len(asked)


def test_words_that_nobody_wants_to_know_of_are_not_asked() -> None:
    engine = ScriptedEngine(player)
    settings = dataclasses.replace(SETTINGS, samples_per_once_word=0)
    found = evaluate("toy", engine, Characters(), [HILL, RIVER], GAME, settings)
    assert [n for _, _, n in engine.asked][2:] == [8, 8, 4], "a valid mask of each and a repeated word"
    assert [result.once for result in found.passages] == [None, None]
    labels = [row[0] for row in rows([found])]
    assert "predictor: fixed repeated words" in labels
    assert "predictor: fixed once-only words" not in labels


def test_equal_masks_of_one_passage_are_predicted_independently() -> None:
    engine = ScriptedEngine(lambda prompt, k: "\\mask{hill}")
    evaluate("p", engine, Characters(), [HILL], GAME, SETTINGS)
    (first, seed_of_first), (second, seed_of_second) = [(text, seed) for text, seed, n in engine.asked if n == 8]
    assert first == second
    assert seed_of_first != seed_of_second


def test_the_split_over_ranks_changes_nothing() -> None:
    passages = [RIVER, HILL, RIVER.replace("Linz", "Passau"), HILL.replace("Graz", "Villach"), "Nothing at all here."]
    whole_engine = ScriptedEngine(player)
    whole = evaluate("p", whole_engine, Characters(), passages, GAME, SETTINGS)
    engines = [ScriptedEngine(player) for _ in range(3)]
    parts = [
        evaluate("p", engine, Characters(), share_of_rank(passages, rank, 3), GAME, SETTINGS)
        for rank, engine in enumerate(engines)
    ]
    assert merge(parts) == whole
    assert whole.rules.startswith("prompt_family quote, span_policy one_mask, ")
    assert sorted(asked for engine in engines for asked in engine.asked) == sorted(whole_engine.asked)


def test_parts_of_different_evaluations_do_not_merge() -> None:
    part = Evaluation("p", SETTINGS, ())
    with pytest.raises(ValueError, match="parts of one evaluation"):
        merge([part, dataclasses.replace(part, name="q")])
    with pytest.raises(ValueError, match="parts of one evaluation"):
        merge([part, dataclasses.replace(part, rules="others")])


def test_a_question_beyond_the_prompt_budget_counts_as_unsolved() -> None:
    passage = "Go " * 5 + "on."
    prompt = len("Paragraph: \nWords to mask:") + len(passage)
    settings = dataclasses.replace(SETTINGS, max_prompt_length=prompt)  # each [mask] makes it longer by four
    game = dataclasses.replace(GAME, span_policy="default")
    engine = ScriptedEngine(lambda prompt, k: "\\mask{Go}")
    result = evaluate("p", engine, Characters(), [passage], game, settings).passages[0]
    assert result.own[0].fault == "ok"
    assert result.own[0].predictions is not None
    assert (result.own[0].predictions.accuracy, result.own[0].reward) == (0.0, 0.0)
    assert all(len(text) <= prompt for text, _, _ in engine.asked)


def test_a_passage_beyond_the_prompt_budget_is_bad_input() -> None:
    settings = dataclasses.replace(SETTINGS, max_prompt_length=20)
    with pytest.raises(BadInput, match="max_prompt_length 20"):
        evaluate("p", ScriptedEngine(player), Characters(), [RIVER], GAME, settings)


def test_results_survive_the_disk(tmp_path: Path) -> None:
    result = evaluate("p", ScriptedEngine(player), Characters(), [RIVER, HILL], GAME, SETTINGS)
    result.save(tmp_path / "new" / "p.json")
    assert Evaluation.load(tmp_path / "new" / "p.json") == result
    (tmp_path / "other.json").write_text('{"name": 3}')
    with pytest.raises(BadInput, match=r"other\.json"):
        Evaluation.load(tmp_path / "other.json")
    with pytest.raises(BadInput, match=r"absent\.json"):
        Evaluation.load(tmp_path / "absent.json")


@dataclass(frozen=True)
class Item:
    text: str
    page_id: str


CORPUS = [Item(f"Sentence {i} of article {page} is short.", str(page)) for page in range(5) for i in range(3)]


def pick(corpus: Sequence[Item], count: int, data: DataConfig | None = None, limit: int = 400) -> list[Item]:
    return choose(corpus, count, Characters(), GAME, data or DataConfig(), limit)


@pytest.mark.parametrize(("most", "read"), [(9, [0, 1, 2, 3, 4, 5, 6]), (7, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_of_a_large_corpus_every_kth_passage_is_a_candidate(most: int, read: list[int]) -> None:
    corpus = [Passage(f"text {index}", (1, 2), 0, "page", "", "", index) for index in range(7)]
    found = list(candidates(corpus, most))
    assert [(passage.index, passage.text, passage.token_ids) for passage in found] == [
        (index, f"text {index}", ()) for index in read
    ]


def test_articles_give_one_passage_each_before_any_gives_a_second() -> None:
    assert sorted(item.page_id for item in pick(CORPUS, 5)) == ["0", "1", "2", "3", "4"]
    eight = [item.page_id for item in pick(CORPUS, 8)]
    assert all(1 <= eight.count(str(page)) <= 2 for page in range(5))
    assert len(set(pick(CORPUS, 99))) == len(CORPUS)


def test_the_choice_does_not_depend_on_the_corpus_order() -> None:
    assert pick(CORPUS, 7) == pick(CORPUS[::-1], 7)
    assert pick(CORPUS, 4) == pick(CORPUS, 7)[:4]


def test_passages_that_cannot_be_asked_are_passed_over() -> None:
    texts = ["It says [mask] here already.", "Far too " + "many " * 90 + "words.", "Two words."]
    odd = [Item(text, str(page_id)) for page_id, text in enumerate(texts, start=7)]
    chosen = pick([*CORPUS, *odd], 99, DataConfig(min_passage_words=3, max_passage_words=50))
    assert set(chosen) == set(CORPUS)
    with pytest.raises(BadInput, match="max_prompt_length 10"):
        pick(CORPUS, 5, limit=10)
    with pytest.raises(BadInput, match="at least 1"):
        pick(CORPUS, 0)


def test_no_passage_is_lost_or_doubled_between_ranks() -> None:
    shares = [share_of_rank(CORPUS, rank, 4) for rank in range(4)]
    assert [item for share in shares for item in share] == CORPUS
    assert {len(share) for share in shares} == {3, 4}
