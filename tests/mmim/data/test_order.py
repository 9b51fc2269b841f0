from collections import Counter
from itertools import chain

import pytest

from mmim.data.order import Layout, Order, Visit
from mmim.draw import stable_hash

HASHES = [stable_hash(f"{i}.mp4") for i in range(13)]
BATCH = 24
LAYOUTS = [
    Layout(BATCH, 24),
    Layout(BATCH, 1),
    Layout(BATCH, 4, 2),
    Layout(BATCH, 12, 2),
    Layout(BATCH, 3, 4),
    Layout(BATCH, 8, 3),
]


def step_visits(layout: Layout, start: int, stop: int, repeats: int = 1) -> list[Counter]:
    """What each optimiser step sees, over all processes."""
    order = Order(HASHES, 0, repeats)
    steps = [Counter() for _ in range(start, stop)]
    for process in range(layout.processes):
        turns = list(order.micro_batches(layout, process, start, stop))
        assert len(turns) == (stop - start) * layout.accumulation
        for i, visits in enumerate(turns):
            assert len(visits) == layout.micro
            steps[i // layout.accumulation].update(visits)
    return steps


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_visits_every_sample_once_per_repeat(epoch, repeats):
    order, length = Order(HASHES, 0, repeats), 13 * repeats
    visits = [order.visit(place) for place in range(epoch * length, (epoch + 1) * length)]
    assert Counter(visits) == Counter(Visit(i, epoch, r) for i in range(13) for r in range(repeats))


def test_repeats_stand_in_a_row():
    order = Order(HASHES, 0, 3)
    visits = [order.visit(place) for place in range(39)]
    assert [visit.repeat for visit in visits] == [0, 1, 2] * 13
    assert all(visits[i].index == visits[i + 1].index == visits[i + 2].index for i in range(0, 39, 3))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_step_sees_the_same_whatever_the_layout(layout):
    assert step_visits(layout, 0, 3) == step_visits(LAYOUTS[0], 0, 3)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_places_of_a_step_are_parted_without_rest(layout):
    places = [
        layout.places(5, process, turn) for process in range(layout.processes) for turn in range(layout.accumulation)
    ]
    assert sorted(chain(*places)) == list(range(5 * BATCH, 6 * BATCH))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_restart_sees_what_an_uninterrupted_run_sees(layout):
    for process in range(layout.processes):
        whole = list(Order(HASHES, 0).micro_batches(layout, process, 0, 4))
        rest = list(Order(HASHES, 0).micro_batches(layout, process, 2, 4))
        assert whole[2 * layout.accumulation :] == rest


def test_a_place_is_the_same_whatever_was_asked_before():
    order = Order(HASHES, 0)
    forward = [order.visit(place) for place in range(40)]
    assert [order.visit(place) for place in reversed(range(40))] == forward[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    def indices(seed: int, epoch: int) -> tuple[int, ...]:
        order = Order(HASHES, seed)
        return tuple(order.visit(13 * epoch + place).index for place in range(13))

    assert len({indices(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_a_new_file_leaves_the_others_in_their_order():
    def names(hashes: list[int]) -> list[int]:
        order = Order(hashes, 0)
        return [hashes[order.visit(place).index] for place in range(len(hashes))]

    assert [sample for sample in names([*HASHES, 99]) if sample != 99] == names(HASHES)


def test_every_sample_comes_first_in_some_epoch():
    order = Order(HASHES, 0)
    first = Counter(order.visit(13 * epoch).index for epoch in range(1300))
    assert sum((first[i] - 100) ** 2 / 100 for i in range(13)) < 32.9  # chi-square, 12 degrees of freedom, p = 0.001


LENGTHS = [(7 * i) % 5 for i in range(13)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_lengths_move_samples_between_the_micro_batches_of_a_step_and_no_further(layout):
    plain, grouped = Order(HASHES, 0), Order(HASHES, 0, lengths=LENGTHS)
    for step in range(3):
        sets = [
            Counter(
                visit
                for process in range(layout.processes)
                for visits in order.micro_batches(layout, process, step, step + 1)
                for visit in visits
            )
            for order in (plain, grouped)
        ]
        assert sets[0] == sets[1]


def test_samples_of_like_length_share_a_micro_batch():
    (short, long) = Order(HASHES, 0, lengths=LENGTHS).micro_batches(Layout(12, 6), 0, 0, 1)
    assert max(LENGTHS[visit.index] for visit in short) <= min(LENGTHS[visit.index] for visit in long)


def test_repeats_of_a_sample_stay_together_among_others_of_its_length():
    (visits,) = Order(HASHES, 0, 3, LENGTHS).micro_batches(Layout(39, 39), 0, 0, 1)
    runs = [[visit.repeat for visit in visits[start : start + 3]] for start in range(0, 39, 3)]
    assert runs == [[0, 1, 2]] * 13


def test_equal_lengths_leave_the_order_as_it_is():
    layout = Layout(BATCH, 6, 2)
    plain, alike = Order(HASHES, 0), Order(HASHES, 0, lengths=[4] * 13)
    assert list(plain.micro_batches(layout, 1, 0, 3)) == list(alike.micro_batches(layout, 1, 0, 3))
