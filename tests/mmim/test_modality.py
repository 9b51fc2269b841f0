"""What a modality does where its author says nothing."""

import numpy as np
import torch
from torch.testing import assert_close

from mmim.modality import Modality
from tests.toy import Toy


def test_contents_are_raw_as_they_are():
    values = torch.randn(2, 8, 4)
    assert Modality.raw(Toy(), values) is values


def test_an_embedding_is_a_linear_map_of_all_numbers_of_a_token():
    embedder = Modality.embedder(Toy(columns=4), 6)
    values = torch.randn(2, 5, 4)
    assert embedder(values).shape == (2, 5, 6)
    assert_close(embedder(2 * values) - embedder(values), embedder(values) - embedder(0 * values))


def test_a_picture_has_the_first_axis_to_the_right_and_shows_extremes_where_they_stand():
    data = torch.zeros(2, 3, 2)
    data[1, 2, 0], data[1, 0, 1] = 1e9, -1e9
    flat, extreme = Modality.render(Toy(), data)
    assert flat.shape == extreme.shape == (16, 24, 3)
    assert np.unique(flat).tolist() == [128]
    assert extreme[0, 23].tolist() == [255] * 3
    assert extreme[15, 0].tolist() == [0] * 3
    assert (extreme != flat).any(axis=2).sum() == 2 * 64


def test_data_of_one_axis_are_a_picture_too():
    assert Modality.render(Toy(), torch.arange(10).reshape(2, 5))[0].shape == (8, 40, 3)
