"""Draws: the distribution by hand, numbers that belong to a row, and ranges."""

import pytest
import torch

from dbyte.decode.sampling import Sampler, Sampling, probabilities

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


def drawn(sampling, logits, times, prompts=(b"a",), **options):
    sampler = Sampler(sampling, prompts, **options)
    rows = list(range(len(prompts)))
    return torch.stack([sampler.draw(logits.expand(len(prompts), -1), rows) for _ in range(times)])


@pytest.mark.parametrize("sampling, expected", [
    (Sampling(1.0), [0.1, 0.4, 0.2, 0.3]), (Sampling(0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
    (Sampling(1.0, top_k=2), [0, 4 / 7, 0, 3 / 7]), (Sampling(1.0, top_k=9), [0.1, 0.4, 0.2, 0.3]),
    (Sampling(1.0, top_p=0.5), [0, 4 / 7, 0, 3 / 7]), (Sampling(1.0, top_p=0.39), [0, 1, 0, 0]),
    (Sampling(1.0, top_k=3, top_p=0.7), [0, 4 / 7, 0, 3 / 7]), (Sampling(1.0, top_p=1e-9), [0, 1, 0, 0]),
])
def test_the_distribution_by_hand(sampling, expected):
    found = probabilities(LOGITS, sampling)
    found = found / found.sum()
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.double), rtol=1e-5, atol=1e-7)
    often = drawn(sampling, LOGITS, 4000)[:, 0].bincount(minlength=4) / 4000
    assert (often - found[0]).abs().max() < 0.03
    assert (often[found[0] == 0] == 0).all()


def test_what_is_refused_is_never_drawn_even_first_and_last():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    assert set(drawn(Sampling(5.0), logits, 500).unique().tolist()) == {1, 3}


def test_temperature_zero_is_the_likeliest_and_the_first_of_equals():
    assert drawn(Sampling(top_k=3, top_p=0.1), torch.tensor([[0.0, 2.0, 2.0]]), 3).tolist() == [[1]] * 3


def test_a_row_draws_as_alone_and_equal_prompts_draw_apart():
    sampling, logits = Sampling(1.0, seed=3), torch.zeros(1, 1000)
    prompts = (b"a", b"b", b"a")
    together = drawn(sampling, logits, 20, prompts)
    for row, prompt in enumerate(prompts[:2]):
        assert torch.equal(together[:, row], drawn(sampling, logits, 20, (prompt,))[:, 0])
    assert len({tuple(column.tolist()) for column in together.T}) == 3
    assert not torch.equal(together, drawn(Sampling(1.0, seed=4), logits, 20, prompts))


def test_rows_that_draw_at_different_times_keep_their_numbers():
    sampler, logits = Sampler(Sampling(1.0), (b"a", b"b")), torch.zeros(1, 1000)
    late = [sampler.draw(logits, [1]).item() for _ in range(5)] and [sampler.draw(logits, [0]).item() for _ in range(5)]
    assert late == drawn(Sampling(1.0), logits, 5)[:, 0].tolist()


@pytest.mark.parametrize("wrong, told", [
    (dict(temperature=-0.1), "temperature"), (dict(temperature=float("nan")), "temperature"),
    (dict(temperature=float("inf")), "temperature"), (dict(top_k=0), "top_k"), (dict(top_k=-3), "top_k"),
    (dict(top_p=0.0), "top_p"), (dict(top_p=1.01), "top_p"), (dict(top_p=-1), "top_p"),
    (dict(top_p=float("nan")), "top_p"),
])
def test_values_out_of_range_are_refused_by_name(wrong, told):
    with pytest.raises(ValueError, match=f"{told} must"):
        Sampling(**wrong)
