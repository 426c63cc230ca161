"""The sampler: every passage once per epoch, exact shares of a blend, and exact resumption."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from megatron_pz.corpus.sampler import PassageSampler
from megatron_pz.runtime.errors import BadInput


def test_an_epoch_is_a_permutation_and_the_next_another() -> None:
    sampler = PassageSampler([7, 5], seed=3)
    first, second = sampler.draw(12), sampler.draw(12)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert sampler.epoch == 2


def test_draws_depend_on_the_seed_alone() -> None:
    whole = PassageSampler(50, seed=1).draw(120)
    sampler = PassageSampler(50, seed=1)
    assert [index for count in (1, 40, 0, 79) for index in sampler.draw(count)] == whole
    assert PassageSampler(50, seed=2).draw(120) != whole


def test_weights_are_met_at_every_moment() -> None:
    sampler = PassageSampler([10, 1000, 30], seed=0, weights=[2, 1, 1])
    draws = sampler.draw(400)
    corpora = [0 if index < 10 else 1 if index < 1010 else 2 for index in draws]
    for length in range(1, 401):
        drawn = Counter(corpora[:length])
        assert all(abs(drawn[corpus] - share * length) <= 1 for corpus, share in enumerate((0.5, 0.25, 0.25)))
    assert Counter(index for index in draws if index < 10) == dict.fromkeys(range(10), 20)
    assert len(set(draws) - set(range(10))) == 100 + 30


@pytest.mark.parametrize("weights", [None, [3.0, 1.0]])
def test_resuming_goes_on_exactly(weights: list[float] | None) -> None:
    sampler = PassageSampler([6, 9], 5, weights)
    sampler.draw(22)
    state = json.loads(json.dumps(sampler.state_dict()))
    following = sampler.draw(40)
    other = PassageSampler([6, 9], 5, weights)
    other.load_state_dict(state)
    assert other.draw(40) == following


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (PassageSampler([6, 8], 5), "numbers of passages"),
        (PassageSampler([6, 9], 6), "seed"),
        (PassageSampler([6, 9], 5, [1, 1]), "numbers of passages"),
    ],
)
def test_a_state_of_other_corpora_is_refused(other: PassageSampler, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        PassageSampler([6, 9], 5).load_state_dict(other.state_dict())


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot sample"):
        PassageSampler([6, 0], 5, [1, 1])


def test_passages_that_do_not_fit_are_passed_over() -> None:
    numbers = list(range(50))
    found = PassageSampler(50, seed=1).draw_fitting(40, numbers, lambda number: number % 2 == 0)
    assert found == [index for index in PassageSampler(50, seed=1).draw(120) if index % 2 == 0][:40]


def test_a_corpus_of_which_nothing_fits_is_bad_input() -> None:
    with pytest.raises(BadInput, match="none of the 50 passages"):
        PassageSampler(50, seed=1).draw_fitting(1, list(range(50)), lambda number: False)
