import pytest
import torch

from mmim.corruption.corruption import Sides
from mmim.corruption.sentinels import Sentinels
from mmim.errors import OptionError
from mmim.model import MaskedModel, Step
from mmim.options import apply
from mmim.records import Split
from tests.ids import PADDING, SPANS, Letters, batch_of, hide, random_letters
from tests.toy import Toy


def sides(ids: list[list[int]] | torch.Tensor, split: Split, **fields) -> Sides:
    modality = Letters(**{"sentinels": 20, **fields})
    return Sentinels().build(8, modality).sides(modality.tokenize(torch.as_tensor(ids)), split)


def sequence(tokens, row: int = 0) -> list[int]:
    """The valid ids of a sample."""
    ids = tokens.values[row]
    return (ids if tokens.valid is None else ids[tokens.valid[row]]).tolist()


def naive(ids: list[int], row: str, first: int = 11) -> tuple[list[int], list[int]]:
    """What figure 2 does, one token after the other."""
    seen, asked, run, before = [], [], -1, "."
    for i, sign in zip(ids, row, strict=True):
        if sign == "#" and before == ".":
            run += 1
            seen.append(first + run)
            asked.append(first + run)
        (asked if sign == "#" else seen).append(i)
        before = sign
    return seen, [*asked, first + run + 1]


def test_does_what_figure_2_of_the_paper_shows():
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    names = [*words, "<M>", "<X>", "<Y>", "<Z>", *["<unused>"] * 5]
    found = sides([list(range(11))], hide("..##....#.."), words=11, sentinels=8, longest=11)
    assert " ".join(names[i] for i in sequence(found.tokens)) == "Thank you <X> me to your party <Y> week ."
    assert " ".join(names[i] for i in sequence(found.asked)) == "<X> for inviting <Y> last <Z>"


@pytest.mark.parametrize(
    "row", [".#.#.#", "###...", "...###", "#.##.#", "......", "..#...", "#....#", "#####.", "######"]
)
def test_runs_anywhere_become_sentinels(row):
    ids = [3, 1, 4, 1, 5, 9]
    found = sides([ids], hide(row))
    assert (sequence(found.tokens), sequence(found.asked)) == naive(ids, row)


def test_random_cuts_of_a_whole_batch_agree_with_one_token_after_the_other():
    ids, generator = random_letters(40, 16), torch.Generator().manual_seed(1)
    rows = []
    for _ in range(40):
        hidden = torch.randperm(16, generator=generator)[:6].tolist()
        rows.append("".join("#" if i in hidden else "." for i in range(16)))
    found = sides(ids, hide(*rows))
    for b, row in enumerate(rows):
        assert (sequence(found.tokens, b), sequence(found.asked, b)) == naive(ids[b].tolist(), row)


def test_padding_takes_no_part():
    ids = [[3, 1, 4, 1, 5, 9], [2, 7, 1, PADDING, PADDING, PADDING]]
    found = sides(ids, hide(".##..#", "#.#___"), padded=True)
    assert [(sequence(found.tokens, b), sequence(found.asked, b)) for b in range(2)] == [
        naive([3, 1, 4, 1, 5, 9], ".##..#"),
        naive([2, 7, 1], "#.#"),
    ]


def test_padding_stays_padding_where_nothing_is_hidden():
    found = sides([[3, 1, 4], [2, 7, PADDING]], hide("...", ".._"), padded=True)
    assert [sequence(found.tokens, b) for b in range(2)] == [[3, 1, 4], [2, 7]]


def test_padding_inside_a_run_does_not_end_it():
    found = sides([[3, 1, 4, 1, 5, 9]], hide(".#_#.."), padded=True)
    assert (sequence(found.tokens), sequence(found.asked)) == naive([3, 1, 1, 5, 9], ".##..")


def test_validity_is_that_of_the_splits_which_hold_all_places_in_order():
    found = sides([[3, 1, 4, 1, 5, 9], [3, 1, 4, 1, 5, 9]], hide(".##..#", "###..."))
    assert torch.equal(found.split.ids_keep[0], torch.arange(found.tokens.count))
    assert torch.equal(found.asked_split.ids_masked[0], torch.arange(found.asked.count))
    assert found.split.ids_masked.shape == found.asked_split.ids_keep.shape == (2, 0)
    assert found.split.keep_valid is found.tokens.valid
    assert found.asked_split.masked_valid is found.asked.valid
    assert found.tokens.valid.sum(dim=1).tolist() == [5, 4]
    assert found.asked.valid.sum(dim=1).tolist() == [6, 5]


def test_places_are_counted_anew_so_that_no_gap_tells_a_length():
    found = sides([[3, 1, 4, 1, 5, 9]], hide(".###.."))
    for tokens in (found.tokens, found.asked):
        assert tokens.coords.flatten().tolist() == list(range(tokens.count))


@pytest.mark.parametrize(
    ("row", "encoder", "decoder"),
    [("..........##", 12, 5), ("..##########", 5, 14), ("............", 12, 1), ("#.#.#.#.#.#.", 12, 13)],
)
def test_lengths_are_the_tight_ones_of_the_shapes(row, encoder, decoder):
    found = sides(random_letters(1), hide(row))
    assert (found.tokens.count, found.asked.count) == (encoder, decoder)


def test_without_anything_hidden_no_attention_mask_is_made():
    found = sides(random_letters(2), hide("." * 12, "." * 12))
    assert found.tokens.valid is None
    assert found.split.keep_valid is None
    assert torch.equal(found.tokens.values, random_letters(2))


def test_permuting_the_batch_permutes_the_sequences():
    rows, order = (".##..#", "###...", "#.#.#."), [2, 0, 1]
    ids = random_letters(3, 6)
    found, turned = sides(ids, hide(*rows)), sides(ids[order], hide(*(rows[i] for i in order)))
    assert torch.equal(turned.tokens.values, found.tokens.values[order])
    assert torch.equal(turned.asked.values, found.asked.values[order])


def test_no_span_can_lack_a_sentinel():
    ids = random_letters(1)
    assert sides(ids, hide("#.#.#......."), sentinels=4).asked.values[0, -1] == 14  # the fourth
    with pytest.raises(OptionError, match=r"4 hidden of 12 tokens may lie in 4 spans and need 5 sentinels.* has 4"):
        sides(ids, hide("####........"), sentinels=4)
    assert sides(ids, hide("##########.."), sentinels=4).tokens.count == 5  # two visible tokens part three spans


def test_a_budget_that_asks_for_visible_places_too_is_refused():
    split = hide("##..")
    counted = Split(split.ids_keep, split.ids_masked, counted=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(OptionError, match="this budget asks for more than what is hidden: use ratio"):
        sides(random_letters(1, 4), counted)


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        (Toy(), "the tokens of Toy are none: use drop or mask_token"),
        (Letters(vector=True), "the tokens of Letters are none"),
        (Letters(sentinels=0), "the vocabulary of Letters has none"),
        (Letters(axes=2), r"shorten a sequence, and Letters has a grid \(12, 1\)"),
    ],
)
def test_what_has_no_sentinels_is_refused(modality, message):
    with pytest.raises(OptionError, match=message):
        Sentinels().build(8, modality)


def test_the_encoder_gets_no_hidden_token_and_the_decoder_every_one():
    torch.manual_seed(0)
    model, ids = MaskedModel(SPANS).eval(), random_letters(3)
    step = Step(model, batch_of(ids))
    hidden = torch.zeros_like(ids, dtype=torch.bool).scatter(1, step.splits["letters"].ids_masked, True)
    changed = Step(model, batch_of(torch.where(hidden, (ids + 1) % 10, ids)))
    assert torch.equal(changed.latents().values, step.latents().values)
    assert (changed.target("letters") != step.target("letters")).sum() == hidden.sum()
    other = Step(model, batch_of(torch.where(hidden, ids, (ids + 1) % 10)))
    assert not torch.equal(other.latents().values, step.latents().values)


def test_fixed_tokens_stay_visible():
    model = MaskedModel(apply(SPANS, {"modalities.letters.fixed": True, "budget.ratio": 0.6}))
    ids = random_letters(20) % 9
    ids[:, 0] = 9
    step = Step(model, batch_of(ids))
    assert (step.sides["letters"].tokens.values[:, 0] == 9).all()
    assert not (step.sides["letters"].asked.values == 9).any()


def test_embedding_takes_the_sequence_as_it_is():
    model, ids = MaskedModel(SPANS).eval(), random_letters(2)
    assert model.latents(batch_of(ids)).values.shape[:2] == ids.shape
