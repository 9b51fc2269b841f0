import numpy as np

from mmim.data.text_draw import page


def ink(picture):
    return (picture < 100).all(axis=2)


def test_an_empty_page_is_one_white_line():
    picture = page([])
    assert (picture.shape, picture.dtype) == ((44, 640, 3), np.uint8)
    assert (picture == 255).all()


def test_words_are_dark_and_what_is_unknown_is_a_grey_box():
    picture = page(["word", None, "word"])
    boxes = (picture == 128).all(axis=2)
    columns = np.flatnonzero(boxes.sum(axis=0) > 8)  # letters have grey edges too
    assert len(columns) == columns[-1] - columns[0] + 1 == 45
    dark = np.flatnonzero(ink(picture).any(axis=0))
    assert dark.min() < columns[0] < columns[-1] < dark.max()


def test_lines_break_between_words_and_the_page_grows():
    heights = [page(["word"] * count).shape[0] for count in (1, 12, 13, 60)]
    assert heights[0] == heights[1] == 44
    assert heights == sorted(heights)
    picture = page(["word"] * 60)
    assert not ink(picture[:, -10:]).any()
    assert not ink(picture[:, :10]).any()


def test_a_word_that_is_longer_than_a_line_is_cut_off():
    picture = page(["a", "x" * 10**6, "b"])
    assert picture.shape == (20 + 24 * 3, 640, 3)


def test_a_page_is_the_same_every_time():
    assert (page(["Ünïcode", "λόγος", None]) == page(["Ünïcode", "λόγος", None])).all()
