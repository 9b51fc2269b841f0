import torch

from mmim.draw import Draw
from mmim.masking.boxes import covered, first_turn, sides

DRAW = Draw(torch.arange(400))


def test_areas_and_aspects_are_those_asked_for():
    height, width = sides(DRAW, 5, 9, 49, 0.3)
    areas, aspects = height * width, height / width
    assert 9 <= areas.min() < 10
    assert 48 < areas.max() <= 49
    assert 0.3 <= aspects.min() < 0.32
    assert 3.1 < aspects.max() <= 1 / 0.3
    assert abs(float(aspects.log().mean())) < 0.05  # as often upright as lying


def test_a_box_covers_its_rounded_length_inside_the_axis():
    length, place = torch.tensor([[2.6, 0.2, 9.0, 2.0]]), torch.tensor([[0.0, 0.99, 0.5, 0.99]])
    assert covered(5, length, place)[0].int().tolist() == [
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1],
    ]


def test_every_start_inside_the_axis_is_as_likely():
    place = DRAW.uniform("place", 50)
    starts = covered(7, torch.full_like(place, 3.0), place).int().argmax(dim=2).flatten()
    assert (starts.bincount() / len(starts) - 1 / 5).abs().max() < 0.02


def test_an_earlier_box_has_the_higher_turn():
    boxes = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 1, 0]]]], dtype=torch.bool)
    assert first_turn(boxes).tolist() == [[2, 2, 1, 0]]
