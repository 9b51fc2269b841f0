import math
from itertools import pairwise

import numpy as np
import pytest

from mmim.errors import OptionError
from mmim.training.schedule import WarmupCosine


def factors(schedule: WarmupCosine, steps: int) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps)]


def test_starts_at_zero_and_peaks_on_the_last_warm_up_step():
    made = factors(WarmupCosine(warmup=0.1), 200)
    assert made[0] == 0
    assert made[19] == 1.0
    assert max(made[:19]) < 1


def test_ends_near_its_least_rate():
    made = factors(WarmupCosine(warmup=0.1, min_lr=0.01), 2000)
    assert made[-1] == pytest.approx(0.01, abs=1e-5)
    assert min(made[200:]) == made[-1]


def test_falls_from_the_peak_on():
    made = factors(WarmupCosine(warmup=0.1), 200)[20:]
    assert all(later < earlier for earlier, later in pairwise(made))


@pytest.mark.parametrize(("steps", "warm", "low"), [(200, 20, 0.0), (800, 40, 1 / 15), (50, 0, 0.1), (30, 30, 0.0)])
def test_equals_the_schedule_of_videomae(steps, warm, low):
    # MCG-NJU/VideoMAE, utils.py:cosine_scheduler as its callers use it: the starting rate stays 0 (fact sheet, trap 11)
    rising = np.linspace(0, 1, warm)
    falling = [low + 0.5 * (1 - low) * (1 + math.cos(math.pi * i / (steps - warm))) for i in range(steps - warm)]
    assert factors(WarmupCosine(warmup=warm / steps, min_lr=low), steps) == pytest.approx(
        [*rising, *falling], abs=1e-12
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_short_run_stays_within_bounds(steps):
    assert all(0 <= factor <= 1 for factor in factors(WarmupCosine(warmup=0.5), steps))


@pytest.mark.parametrize("warmup", [-0.1, 1.5, 40.0])
def test_warm_up_is_a_share(warmup):
    with pytest.raises(OptionError, match=rf"warmup is {warmup}: it is a share of the run"):
        WarmupCosine(warmup=warmup)
