"""Words as a picture of a page."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, SIZE, LINE = 640, 10, 16, 24  # pixels: of the page, its edge, a letter, a line
BOX = 44  # pixels: width of what is unknown
INK, PAPER, GREY = (20, 20, 20), (255, 255, 255), (128, 128, 128)


def page(words: Sequence[str | None]) -> UInt8[np.ndarray, "h w 3"]:
    """Words in lines, and a grey box for each that is None. The page is as high as its lines."""
    placed, rows = _placed(words)
    picture = Image.new("RGB", (WIDTH, rows * LINE + 2 * MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    for word, left, top in placed:
        if word is None:
            draw.rectangle((left, top + 3, left + BOX, top + SIZE + 3), fill=GREY)
        else:
            draw.text((left, top), word, font=_font(), fill=INK)
    return np.asarray(picture)


def _placed(words: Sequence[str | None]) -> tuple[list[tuple[str | None, int, int]], int]:
    """Each word with its left and upper edge, and how many lines there are; a word that is too long is cut off."""
    placed: list[tuple[str | None, int, int]] = []
    left, row, space = MARGIN, 0, round(_font().getlength(" "))
    for word in words:
        width = BOX if word is None else min(round(_font().getlength(word[:WIDTH])), WIDTH - 2 * MARGIN)
        if left > MARGIN and left + width > WIDTH - MARGIN:
            left, row = MARGIN, row + 1
        placed.append((word if word is None else word[:WIDTH], left, MARGIN + row * LINE))
        left += width + space
    return placed, row + 1


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The one that matplotlib brings, which has Greek and Cyrillic too."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), SIZE)
