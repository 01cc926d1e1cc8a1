import dataclasses

import pytest
import torch

from t2l_router.engines.sampling import Sampler, SamplingParams

LOGITS = torch.tensor([0.0, 3.0, 2.0, 1.0])
GREEDY = SamplingParams(temperature=0)


def sampler(params: SamplingParams, prompt=(0,)) -> Sampler:
    return Sampler(params, list(prompt), vocab_size=4, device=torch.device("cpu"))


def draws(params: SamplingParams, n: int = 400) -> list[int]:
    subject = sampler(dataclasses.replace(params, seed=0))
    return [subject.pick(LOGITS) for _ in range(n)]


def test_greedy():
    """Temperature 0 takes the likeliest token, every time."""
    subject = sampler(GREEDY)

    assert [subject.pick(LOGITS) for _ in range(3)] == [1, 1, 1]


def test_frequencies_follow_the_logits():
    """At temperature 1 tokens come as often as the softmax says."""
    counts = torch.bincount(torch.tensor(draws(SamplingParams(temperature=1.0), 4_000)))

    assert torch.allclose(counts / 4_000, LOGITS.softmax(-1), atol=0.03)


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({"top_k": 2}, {1, 2}),
        ({"top_p": 0.5}, {1}),
        ({"top_p": 0.0}, {1}),
        ({"min_p": 0.3}, {1, 2}),
        ({"temperature": 0.01}, {1}),
        ({"logit_bias": {0: 100}}, {0}),
        ({"logit_bias": {1: -100, 2: -100}}, {0, 3}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_what_can_be_drawn(change, possible):
    """Each parameter leaves the tokens it should leave."""
    params = dataclasses.replace(SamplingParams(temperature=1.0), **change)

    assert set(draws(params)) == possible


def test_seed():
    """Equal seeds give equal tokens, different ones don't, and none gives new ones each time."""
    params = SamplingParams(temperature=1.0)
    one, two = (dataclasses.replace(params, seed=seed) for seed in (1, -1))

    def pick(params):
        subject = sampler(params)
        return [subject.pick(LOGITS) for _ in range(40)]

    assert pick(one) == pick(one)
    assert pick(one) != pick(two)
    assert pick(params) != pick(params)


def test_seed_is_not_disturbed_by_others():
    """What other requests draw in between doesn't change a seeded request's tokens."""
    params = SamplingParams(temperature=1.0, seed=5)
    alone, mixed, other = sampler(params), sampler(params), sampler(SamplingParams(temperature=1))
    expected = [alone.pick(LOGITS) for _ in range(20)]
    picked = []
    for _ in range(20):
        other.pick(LOGITS)
        torch.rand(3)
        picked.append(mixed.pick(LOGITS))

    assert picked == expected


@pytest.mark.parametrize(
    ("change", "picked"),
    [
        ({"presence_penalty": 1.5}, [1, 2, 1, 1]),
        ({"frequency_penalty": 0.6}, [1, 1, 2, 1, 2]),
        ({"repetition_penalty": 2.0}, [1, 2, 1]),
    ],
)
def test_penalties(change, picked):
    """A penalty turns the choice away from tokens that the answer already has."""
    subject = sampler(dataclasses.replace(GREEDY, **change))

    assert [subject.pick(LOGITS) for _ in picked] == picked


def test_repetition_penalty_counts_the_prompt():
    """The repetition penalty also falls on the prompt's tokens, the others don't."""
    assert sampler(dataclasses.replace(GREEDY, repetition_penalty=2.0), (1,)).pick(LOGITS) == 2
    assert sampler(dataclasses.replace(GREEDY, presence_penalty=2.0), (1,)).pick(LOGITS) == 1
