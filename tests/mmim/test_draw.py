import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import kstest, loggamma

from mmim.draw import Draw, mix, mix64, stable_hash, visit_key

MANY, FEW = 20_000, 1_500


def visits(count: int) -> torch.Tensor:
    return torch.tensor([visit_key(0, 0, stable_hash(f"{i}.mp4"), 0) for i in range(count)])


STREAMS = {
    "indices": lambda: Draw(visits(1)).uniform("tube", MANY)[0],
    "samples": lambda: Draw(visits(MANY)).uniform("tube", 1)[:, 0],
    "consecutive keys": lambda: Draw(torch.arange(MANY)).uniform("tube", 1)[:, 0],
    "names": lambda: torch.stack([Draw(visits(1)).uniform(f"part{i}", 1)[0, 0] for i in range(FEW)]),
    "names of parts": lambda: torch.stack(
        [Draw(visits(1)).named(f"part{i}").uniform("a", 1)[0, 0] for i in range(FEW)]
    ),
    "named samples": lambda: Draw(visits(MANY)).named("video").named("main").uniform("tube", 1)[:, 0],
}


@pytest.fixture(scope="module", params=STREAMS)
def stream(request) -> np.ndarray:
    return STREAMS[request.param]().double().numpy()


def test_draws_lie_in_the_unit_interval(stream):
    assert 0 <= stream.min() < 5e-3
    assert 1 - 5e-3 < stream.max() < 1


def test_draws_have_the_moments_of_a_uniform(stream):
    assert stream.mean() == pytest.approx(1 / 2, abs=4 * (1 / 12 / len(stream)) ** 0.5)
    assert stream.var() == pytest.approx(1 / 12, abs=4 * (1 / 180 / len(stream)) ** 0.5)


def test_draws_pass_kolmogorov_smirnov(stream):
    assert kstest(stream, "uniform").pvalue > 0.005


@pytest.mark.parametrize("lag", [1, 2, 8, 14])
def test_neighbouring_draws_are_uncorrelated(stream, lag):
    assert abs(np.corrcoef(stream[lag:], stream[:-lag])[0, 1]) < 4 / len(stream) ** 0.5


def test_the_same_key_draws_the_same_whatever_the_batch_around_it():
    keys = visits(9)
    assert torch.equal(Draw(keys).uniform("tube", 5)[3:6], Draw(keys[3:6]).uniform("tube", 5))


def test_asking_for_more_numbers_keeps_the_first():
    assert torch.equal(Draw(visits(2)).uniform("tube", 9)[:, :5], Draw(visits(2)).uniform("tube", 5))


@pytest.mark.parametrize(
    "key",
    [visit_key(1, 0, 5, 0), visit_key(0, 1, 5, 0), visit_key(0, 0, 6, 0), visit_key(0, 0, 5, 1)],
    ids=["seed", "epoch", "sample", "repeat"],
)
def test_another_visit_draws_other_numbers(key):
    one, other = Draw(torch.tensor([visit_key(0, 0, 5, 0), key])).uniform("tube", 64)
    assert (one == other).sum() == 0


def test_the_high_half_of_a_key_matters():
    one, other = Draw(torch.tensor([5, 5 + (1 << 40)])).uniform("tube", 64)
    assert (one == other).sum() == 0


def test_other_names_draw_other_numbers():
    draw = Draw(visits(1))
    streams = [
        draw.uniform("a", 64),
        draw.uniform("b", 64),
        draw.named("a").uniform("b", 64),
        draw.named("b").uniform("a", 64),
    ]
    assert all((one == other).sum() == 0 for one, other in pairwise(streams))


def test_mix_equals_murmur3():
    def fmix32(h: int) -> int:  # Appleby's C code
        h = (h ^ (h >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
        h = (h ^ (h >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
        return h ^ (h >> 16)

    words = [0, 1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xDEADBEEF, 0xFFFFFFFF]
    assert mix(torch.tensor(words)).tolist() == [fmix32(word) for word in words]


def test_mix64_equals_splitmix64():
    def finaliser(z: int) -> int:  # Vigna's C code, after the increment
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & (1 << 64) - 1
        return z ^ (z >> 31)

    words = [0, 1, 1 << 63, (1 << 64) - 1, 0x9E3779B97F4A7C15]
    assert mix64(np.array(words, dtype=np.uint64)).tolist() == [finaliser(word) for word in words]


def test_draws_are_those_of_the_first_version():
    # Another value here changes the masks and the order of every run, and breaks resuming: raise the checkpoint format.
    assert visit_key(0, 0, 5, 0) == 6459996502841209994
    assert (Draw(torch.tensor([6459996502841209994])).named("video").uniform("tube", 3) * 2**24)[0].tolist() == [
        15131470.0,
        12084977.0,
        7560766.0,
    ]


def test_a_name_with_a_broken_encoding_has_a_hash():
    assert stable_hash("clip\udcff.mp4") != stable_hash("clip.mp4")


def test_parts_of_a_hash_do_not_run_together():
    assert stable_hash("ab", "c") != stable_hash("a", "bc")


COMPILE = """
import torch
from mmim.draw import Draw
draw = lambda keys: (
    Draw(keys).named("video").uniform("tube", 196), Draw(keys).log_gamma("shares", torch.tensor([0.2, 1.0, 3.0]))
)
keys = torch.arange(4) * 0x1234567890ABC
compiled, eager = torch.compile(draw, fullgraph=True)(keys), draw(keys)
assert torch.equal(compiled[0], eager[0])
torch.testing.assert_close(compiled[1], eager[1])
"""


@pytest.mark.slow
def test_a_compiled_graph_draws_the_same():
    # In a process of its own, since a graph can't hold the shape checks that pytest adds.
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=120)


def test_plain_python_draws_the_same_numbers():
    for key in (0, 1, 7919, 2**63 - 1, 123456789012345678):
        draw = Draw(torch.tensor([key]))
        assert draw.floats("crop", 20) == draw.uniform("crop", 20)[0].tolist()
        assert draw.named("video").floats("crop", 5) == draw.named("video").uniform("crop", 5)[0].tolist()


# Gamma numbers.

ALPHAS = [0.01, 0.2, 0.5, 1.0, 1.5, 4.0, 30.0]


@pytest.fixture(scope="module")
def gammas() -> np.ndarray:
    return Draw(visits(MANY)).log_gamma("shares", torch.tensor(ALPHAS)).double().numpy()


@pytest.mark.parametrize(("place", "alpha"), list(enumerate(ALPHAS)))
def test_gamma_numbers_pass_kolmogorov_smirnov(gammas, place, alpha):
    # In logarithms, since at 0.01 most of the numbers themselves vanish.
    assert kstest(gammas[:, place], loggamma(alpha).cdf).pvalue > 0.005


@pytest.mark.parametrize(("place", "alpha"), list(enumerate(ALPHAS)))
def test_gamma_numbers_have_the_moments_of_their_distribution(gammas, place, alpha):
    mean, variance, _, excess = loggamma(alpha).stats(moments="mvsk")
    assert gammas[:, place].mean() == pytest.approx(mean, abs=4 * (variance / MANY) ** 0.5)
    assert gammas[:, place].var() == pytest.approx(variance, rel=4 * ((excess + 2) / MANY) ** 0.5)


def test_gamma_numbers_of_one_sample_are_independent(gammas):
    apart = np.corrcoef(gammas.T) - np.eye(len(ALPHAS))
    assert np.abs(apart).max() < 4.5 / MANY**0.5


def test_gamma_numbers_are_the_same_whatever_the_batch_around_them():
    keys, alphas = visits(9), torch.tensor([0.2, 1.0, 3.0])
    assert torch.equal(Draw(keys).log_gamma("a", alphas)[3:6], Draw(keys[3:6]).log_gamma("a", alphas))
    assert torch.equal(Draw(keys).log_gamma("a", alphas), Draw(keys).log_gamma("a", alphas))


def test_other_names_and_keys_draw_other_gamma_numbers():
    draw, alphas = Draw(visits(64)), torch.tensor([1.0, 1.0])
    found = torch.cat([draw.log_gamma("a", alphas), draw.log_gamma("b", alphas)], dim=1)
    assert found.unique().numel() == found.numel()


def test_an_alpha_of_0_gives_no_share():
    found = Draw(visits(4)).log_gamma("a", torch.tensor([0.0, 1.0]))
    assert torch.equal(found.softmax(dim=1), torch.tensor([[0.0, 1.0]] * 4))


def test_gamma_numbers_are_finite_even_for_tiny_alphas():
    assert Draw(visits(1000)).log_gamma("a", torch.tensor([1e-3, 1e3])).isfinite().all()
