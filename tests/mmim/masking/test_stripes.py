import pytest
import torch

from mmim.draw import Draw
from mmim.errors import MaskingError
from mmim.masking.budget import Ratio, groups_of
from mmim.masking.stripes import FrequencyMasking, TimeFrequencyMasking, TimeMasking
from mmim.records import Tokens
from tests.toy import tokens

TIMES, BANDS = 12, 8
GRID = (TIMES, BANDS)
DRAW = Draw(torch.arange(60))


def hidden(policy, ratio, made, rounding="kept_down"):
    """Per sample, time step and band whether it is hidden."""
    split = Ratio(ratio, rounding=rounding).cut(
        {"a": policy.rank(made, DRAW)}, {"a": made}, DRAW, {"a": groups_of(policy, made)}
    )["a"]
    ids = split.ids_masked
    valid = torch.ones_like(ids, dtype=torch.bool) if split.masked_valid is None else split.masked_valid
    return torch.zeros(60, TIMES * BANDS, dtype=torch.bool).scatter(1, ids, valid).reshape(60, *GRID)


def ending(steps):
    """Tokens whose sample i ends after `steps[i]` time steps."""
    there = torch.arange(TIMES) < steps[:, None]
    return tokens(60, GRID, there.repeat_interleave(BANDS, dim=1))


def test_time_masking_hides_whole_steps():
    mask = hidden(TimeMasking(), 0.75, tokens(60, GRID))
    assert torch.equal(mask, mask[:, :, :1].expand_as(mask))
    assert (mask[:, :, 0].sum(dim=1) == TIMES - int(TIMES * 0.25)).all()


def test_frequency_masking_hides_whole_bands():
    mask = hidden(FrequencyMasking(), 0.5, tokens(60, GRID))
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert (mask[:, 0].sum(dim=1) == BANDS // 2).all()


@pytest.mark.parametrize("ratio", [0.3, 0.75, 0.8, 0.95])
def test_time_frequency_masking_hides_the_exact_count(ratio):
    mask = hidden(TimeFrequencyMasking(), ratio, tokens(60, GRID))
    assert (mask.flatten(1).sum(dim=1) == TIMES * BANDS - int(TIMES * BANDS * (1 - ratio))).all()


def test_what_time_frequency_masking_leaves_is_a_crossing_up_to_the_last_stripe():
    seen = ~hidden(TimeFrequencyMasking(), 0.75, tokens(60, GRID))
    times, bands = seen.any(dim=2).sum(dim=1), seen.any(dim=1).sum(dim=1)
    missing = times * bands - seen.flatten(1).sum(dim=1)
    assert (missing < torch.maximum(times, bands)).all()
    assert ((times - TIMES / 2).abs() <= 1).all()  # half of the steps cross half of the bands
    assert ((bands - BANDS / 2).abs() <= 1).all()


@pytest.mark.parametrize("policy", [TimeMasking(), FrequencyMasking(), TimeFrequencyMasking()])
def test_samples_differ_and_every_stripe_is_hidden_about_as_often(policy):
    mask = hidden(policy, 0.5, tokens(60, GRID))
    assert len({tuple(row) for row in mask.flatten(1).tolist()}) > 30
    assert (mask.float().mean(dim=0) - 0.5).abs().max() < 0.3


def test_padded_steps_are_neither_seen_nor_hidden_and_stripes_stay_whole():
    steps = torch.arange(60) % (TIMES - 1) + 2
    made = ending(steps)
    there = made.valid.reshape(60, *GRID)
    by_time, by_band = hidden(TimeMasking(), 0.5, made), hidden(FrequencyMasking(), 0.5, made)
    assert not (by_time & ~there).any()
    assert not (by_band & ~there).any()
    assert torch.equal(by_time, by_time[:, :, :1].expand_as(by_time))
    assert torch.equal(by_band, by_band[:, :1] & there)
    assert torch.equal(by_time[:, :, 0].sum(dim=1), steps - steps // 2)
    assert (by_band[:, 0].sum(dim=1) == BANDS // 2).all()


def test_a_short_clip_keeps_a_crossing_of_its_own_steps():
    steps = torch.full((60,), 6)
    made = ending(steps)
    seen = made.valid.reshape(60, *GRID) & ~hidden(TimeFrequencyMasking(), 0.75, made)
    assert (seen.flatten(1).sum(dim=1) == 12).all()
    assert ((seen.any(dim=2).sum(dim=1) - 3).abs() <= 1).all()
    assert ((seen.any(dim=1).sum(dim=1) - 4).abs() <= 1).all()


@pytest.mark.parametrize("policy", [TimeMasking(), FrequencyMasking(), TimeFrequencyMasking()])
@pytest.mark.parametrize("grid", [None, (24,), (4, 2, 3)])
def test_tokens_without_time_and_frequency_are_refused(policy, grid):
    made = tokens()
    flat = Tokens(made.values, made.coords, grid=grid)
    with pytest.raises(MaskingError, match=r"Stripes need a grid of time and frequency, .* use random masking"):
        policy.rank(flat, Draw(torch.arange(2)))
