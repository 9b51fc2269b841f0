import time
from collections import Counter

import pytest

from mmim.data.order import Layout, Mixture, Order, apportioned
from mmim.draw import stable_hash
from mmim.errors import OptionError

SIZES = (5, 13, 2)
ORIGINS = [origin for origin, size in enumerate(SIZES) for _ in range(size)]
HASHES = [stable_hash(f"{i}.mp4") for i in range(sum(SIZES))]
MIXTURE = Mixture(ORIGINS, [3.0, 1.0, 4.0])  # shares of 96, 32 and 128 of 256, raised to 192, 64 and 256 of 512
LAYOUTS = [Layout(24, 24), Layout(24, 4, 2), Layout(24, 3, 4)]


def mixed(**options) -> Order:
    return Order(HASHES, 0, mixture=MIXTURE, **options)


def test_every_block_has_the_exact_shares():
    assert apportioned(MIXTURE.weights).tolist() == [192, 64, 256]
    order = mixed()
    for block in (0, 1, 700):
        places = range(512 * block, 512 * (block + 1))
        assert Counter(ORIGINS[order.visit(place).index] for place in places) == {0: 192, 1: 64, 2: 256}


@pytest.mark.parametrize("weights", [[1, 1], [2, 1], [1, 1, 1], [5, 3, 0.7], [1e-3, 1], [1e9, 1e9]])
def test_places_are_within_one_of_the_shares_and_no_source_has_few(weights):
    counts = apportioned([float(weight) for weight in weights])
    size = counts.sum()
    assert size in [2**power for power in range(8, 17)]
    assert all(abs(count - size * weight / sum(weights)) < 1 for count, weight in zip(counts, weights, strict=True))
    assert counts.min() >= 63


def test_a_share_without_a_place_is_refused():
    with pytest.raises(OptionError, match=r"smallest --weight has a share of 1e-06, less than a place in 65,536"):
        apportioned([1.0, 1e-6])


def test_a_source_visits_each_of_its_samples_once_in_an_epoch_of_its_own():
    order, seen = mixed(), [[], [], []]
    for place in range(3000):
        visit = order.visit(place)
        seen[ORIGINS[visit.index]].append(visit)
    for origin, size in enumerate(SIZES):
        for epoch in range(len(seen[origin]) // size):
            visits = seen[origin][epoch * size : (epoch + 1) * size]
            assert {visit.epoch for visit in visits} == {epoch}
            assert len({visit.index for visit in visits}) == size


def test_blocks_and_seeds_are_shuffled_on_their_own():
    def turns(seed: int, block: int) -> tuple[int, ...]:
        order = Order(HASHES, seed, mixture=MIXTURE)
        return tuple(ORIGINS[order.visit(512 * block + place).index] for place in range(512))

    assert len({turns(seed, block) for seed in range(3) for block in range(3)}) == 9


def test_a_place_of_a_mixture_is_the_same_whatever_was_asked_before():
    order = mixed(repeats=2)
    forward = [order.visit(place) for place in range(2000)]
    assert [order.visit(place) for place in reversed(range(2000))] == forward[::-1]
    assert [mixed(repeats=2).visit(place) for place in (0, 777, 1999)] == [forward[place] for place in (0, 777, 1999)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_resumed_mixture_goes_on_as_without_the_interruption(layout):
    for process in range(layout.processes):
        whole = list(mixed().micro_batches(layout, process, 0, 40))
        assert whole[31 * layout.accumulation :] == list(mixed().micro_batches(layout, process, 31, 40))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_step_of_a_mixture_has_the_same_samples_whatever_the_layout(layout):
    def step(number: int, spread: Layout) -> Counter:
        processes = range(spread.processes)
        return Counter(v for p in processes for vs in mixed().micro_batches(spread, p, number, number + 1) for v in vs)

    assert [step(number, layout) for number in (0, 22)] == [step(number, LAYOUTS[0]) for number in (0, 22)]


def test_repeats_of_a_mixture_stand_in_a_row():
    visits = [mixed(repeats=3).visit(place) for place in range(30)]
    assert [visit.repeat for visit in visits] == [0, 1, 2] * 10
    assert all(len({visit.index for visit in visits[at : at + 3]}) == 1 for at in range(0, 30, 3))


def test_one_source_with_a_weight_is_in_the_order_without_one():
    weighted, plain = Order(HASHES, 0, mixture=Mixture([0] * len(HASHES), [7.0])), Order(HASHES, 0)
    assert [weighted.visit(place) for place in range(500)] == [plain.visit(place) for place in range(500)]


def test_a_place_far_on_is_found_at_once():
    hashes = [stable_hash(i) for i in range(20_000)]
    order = Order(hashes, 0, mixture=Mixture([i % 2 for i in range(20_000)], [1.0, 900.0]))
    started = time.perf_counter()
    order.visit(10**12 + 1)
    assert time.perf_counter() - started < 1


KINDS = [i % 3 for i in range(len(HASHES))]
LENGTHS = [(7 * i) % 5 for i in range(len(HASHES))]


def test_samples_with_the_same_modalities_share_a_micro_batch_short_ones_first():
    micros = list(Order(HASHES, 0, lengths=LENGTHS, kinds=KINDS).micro_batches(Layout(20, 5), 0, 0, 1))
    found = [(KINDS[visit.index], LENGTHS[visit.index]) for visits in micros for visit in visits]
    assert found == sorted(found)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_kinds_move_samples_within_a_step_and_no_further(layout):
    def step(order: Order) -> Counter:
        processes = range(layout.processes)
        return Counter(v for p in processes for visits in order.micro_batches(layout, p, 1, 2) for v in visits)

    assert step(Order(HASHES, 0, kinds=KINDS)) == step(Order(HASHES, 0))


def test_one_kind_leaves_the_order_as_it_is():
    layout = Layout(24, 6, 2)
    plain, alike = Order(HASHES, 0), Order(HASHES, 0, kinds=[2] * len(HASHES))
    assert list(plain.micro_batches(layout, 1, 0, 3)) == list(alike.micro_batches(layout, 1, 0, 3))
