import subprocess
import sys
from itertools import groupby

import pytest
import torch

from mmim.draw import Draw
from mmim.errors import OptionError
from mmim.masking.budget import split_at
from mmim.masking.span import SpanMasking
from mmim.parts import lookup
from mmim.records import Tokens

DRAW = Draw(torch.arange(400))
N = 512


def tokens(n=N, b=400):
    return Tokens(torch.zeros(1, 1).long().expand(b, n), torch.zeros(1, n, 1))


def hidden(policy, count, n=N, draw=DRAW):
    """Which of n places are hidden."""
    b = len(draw.keys)
    split = split_at(policy.rank(tokens(n, b), draw), n - count)
    return torch.zeros(b, n, dtype=torch.bool).scatter(1, split.ids_masked, True)


def runs(row):
    """The lengths of the runs of hidden places."""
    return [len(list(run)) for flag, run in groupby(row.tolist()) if flag]


def lengths(flags):
    return torch.tensor([length for row in flags for length in runs(row)]).double()


def test_span_is_found_by_its_name():
    assert lookup("masking", "span") is SpanMasking


@pytest.mark.parametrize("share", [0.15, 0.5, 0.95])
def test_the_budget_cuts_the_exact_count(share):
    count = round(N * share)
    assert hidden(SpanMasking(), count).sum(dim=1).eq(count).all()


@pytest.mark.parametrize(
    ("policy", "mean"),
    [
        (SpanMasking(), 3.0),  # T5
        (SpanMasking(mean=5.0, longest=10), 3.8),  # SpanBERT
        (SpanMasking(mean=8.0), 8.0),
        (SpanMasking(mean=1.0), 1.0),
        (SpanMasking(mean=6.0, longest=1), 1.0),
    ],
)
def test_spans_have_the_mean_length_asked_for(policy, mean):
    found = lengths(hidden(policy, 614, 4096, Draw(DRAW.keys[:60])))  # of 4096, since the last span is cut
    assert float(found.mean()) == pytest.approx(mean, rel=0.03)
    assert policy.longest is None or found.max() == policy.longest


def test_lengths_are_geometric():
    found = lengths(hidden(SpanMasking(), 77))
    for length in range(1, 6):
        assert float((found == length).double().mean()) == pytest.approx((2 / 3) ** (length - 1) / 3, abs=0.015)


def test_spans_stay_apart_as_long_as_there_are_others():
    before, after = (lengths(hidden(SpanMasking(mean=1.0), count)) for count in (N // 2 - 40, N // 2 + 40))
    assert before.max() == 1
    assert after.max() > 1


def test_whole_spans_go_one_after_the_other():
    """Between two whole spans at most one run grows, from one end to the other: new runs are a third of the steps."""
    ranks = SpanMasking().rank(tokens(b=50), Draw(DRAW.keys[:50]))
    order = ranks.argsort(dim=1, stable=True, descending=True)
    beside = (order[:, 1:77] - order[:, :76]).abs() == 1
    assert float(beside.double().mean()) == pytest.approx(2 / 3, abs=0.05)  # of a random ranking 1 in 256
    counts = [len(runs(row)) for row in hidden(SpanMasking(), 77, draw=Draw(DRAW.keys[:50]))]
    assert sum(counts) / 50 == pytest.approx(77 / 3, rel=0.1)


def test_every_place_is_hidden_alike():
    share = hidden(SpanMasking(), 77, draw=Draw(torch.arange(4000))).double().mean(dim=0)
    assert float(share.std()) < 1.2 * (0.15 * 0.85 / 4000) ** 0.5
    for part in (share[:8], share[-8:]):  # the first and the last as often as the others
        assert float(part.mean()) == pytest.approx(77 / N, abs=0.012)  # three deviations


def test_a_sample_gets_the_same_ranks_in_any_batch_and_padding():
    ranks = SpanMasking().rank(tokens(), DRAW)
    alone = SpanMasking().rank(tokens(40, 1), Draw(DRAW.keys[9:10]))
    assert torch.equal(alone[0], ranks[9, :40])
    assert not torch.equal(ranks, SpanMasking().rank(tokens(), Draw(DRAW.keys + 400)))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_short_samples_have_ranks(n):
    assert SpanMasking().rank(tokens(n), DRAW).shape == (400, n)
    assert SpanMasking(mean=300.0).rank(tokens(n), DRAW).isfinite().all()


def test_another_process_draws_the_same():
    code = (
        "import torch\nfrom tests.mmim.masking.test_span import *\n"
        "print(SpanMasking().rank(tokens(30, 2), Draw(torch.arange(2))).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(SpanMasking().rank(tokens(30, 2), Draw(torch.arange(2))).tolist())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": 0.5}, "SpanMasking.mean is 0.5; it must be at least 1 and finite"),
        ({"mean": float("nan")}, "SpanMasking.mean is nan"),
        ({"longest": 0}, "SpanMasking.longest is 0; it must be at least 1, or None"),
    ],
)
def test_spans_that_can_not_be_are_refused(fields, message):
    with pytest.raises(OptionError, match=message):
        SpanMasking(**fields)
