"""Checks of a toy model around the modality: losses, gradients, absent samples, precision."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmim.masking.budget import Ratio, groups_of
from mmim.modality import Modality
from mmim.model import Step
from mmim.records import Batch
from mmim.testing.cuts import all_hidden
from mmim.testing.example import NAME, Pass, cut, example, loaded, one_pass, raw_of, readable, toy_model
from mmim.testing.failure import require
from mmim.testing.ranks import elsewhere, rank_of, require_agreement

SMALLEST, LARGEST = 0.01, 10.0
"""Bounds of the root mean square of a target. Raw pixels of 0 .. 255 are beyond."""
STEPS = 480
LEARNT = 0.25
"""The share of its first value below which the loss of one batch must fall within so many steps."""


def targets_fit_their_predictions(modality: Modality, files: Sequence[Path]) -> None:
    """`size` numbers are predicted for each hidden token, a target of as many stands beside them, all finite."""
    target, step = modality.target, Step(toy_model(modality), example(modality, files))
    query, counted = step.query(NAME)
    pred, values = step.prediction(NAME).detach(), step.target(NAME)
    b, m = query.ids.shape
    size = target.size(modality)
    require(tuple(pred.shape) == (b, m, size), f"predictions {(b, m, size)}", tuple(pred.shape), target, "size")
    shape = tuple(values.shape)
    require(shape[:2] == (b, m), f"values at {(b, m)} places", shape, target, "values")
    if values.is_floating_point():
        require(shape[2:] == (size,), f"{size} values, its size", shape[2:], target, "values")
    require(bool(values[counted].isfinite().all()), "finite values", "some that are not", target, "values")
    require(not values.requires_grad, "values without gradient", "some with", target, "values")
    loss = target.loss(pred, values)
    kind = (tuple(loss.shape), loss.dtype)
    exact = kind[0] == (b, m) and kind[1] in (torch.float32, torch.float64)
    require(exact, f"a loss {(b, m)} in float32 or better", kind, target, "loss")


def targets_are_of_order_one(modality: Modality, files: Sequence[Path]) -> None:
    """The root mean square of what is predicted lies within bounds; ids have none. Losses of modalities are added."""
    step = Step(toy_model(modality), example(modality, files))
    values, (_, counted) = step.target(NAME), step.query(NAME)
    if values.is_floating_point():
        size = float(values[counted].square().mean().sqrt())
        said = f"a root mean square of the targets in [{SMALLEST}, {LARGEST}]"
        require(SMALLEST <= size <= LARGEST, said, f"{size:.3g}: scale in `tokenize`", modality.target, "values")


def parts_of_a_batch_add_up_to_the_whole(modality: Modality, files: Sequence[Path]) -> None:
    """Sums, counts and gradients of two parts add up to those of all: micro-batches and processes rest on it."""
    model, half = toy_model(modality), len(files) // 2
    whole = one_pass(model, example(modality, files), mean=False)
    parts = [one_pass(model, readable(modality, part), mean=False) for part in (files[:half], files[half:])]
    gradients = {name: _sum(*(part.gradients[name] for part in parts)) for name in whole.gradients}
    added = Pass(parts[0].total + parts[1].total, parts[0].count + parts[1].count, gradients)
    _same(modality, whole, added, "the loss and the gradients of the parts to add up to those of the whole")


def absent_samples_count_for_nothing(modality: Modality, files: Sequence[Path]) -> None:
    """An absent sample changes neither the loss nor the gradients of the others, whatever stands in its place."""
    model, gone = toy_model(modality), _missing(modality, files[-1:])
    with_absent = loaded(modality, [*files[:-1], *gone]).batch
    alone = one_pass(model, readable(modality, files[:-1]))
    _same(modality, alone, one_pass(model, with_absent), "the others' loss and gradients beside an absent sample")
    stuffed = Batch(
        example(modality, files).views, with_absent.present, with_absent.ids, with_absent.keys, with_absent.step
    )
    _same(modality, alone, one_pass(model, stuffed), "the same whatever stands in an absent sample's place")


def a_batch_without_anybody_is_harmless(modality: Modality, files: Sequence[Path]) -> None:
    """Nothing is counted, and loss and gradients are zero, where every sample is absent."""
    batch = loaded(modality, _missing(modality, files)).batch
    blanks = {"main": {NAME: modality.collate([modality.blank()] * len(files))}}
    nobody = one_pass(toy_model(modality), replace(batch, views=blanks))  # the loader leaves out what nobody has
    require(not nobody.count, "a count of 0 where everybody is absent", nobody.count.item(), modality, "blank")
    _finite(modality, nobody, "where everybody is absent")
    moved = [name for name, g in nobody.gradients.items() if g is not None and bool(g.any())]
    require(not moved, "no gradient where everybody is absent", f"some of {moved[:3]}", modality, "blank")


def a_fully_visible_batch_is_harmless(modality: Modality, files: Sequence[Path]) -> None:
    """With a ratio of 0 nothing is counted, and loss and gradients are finite."""
    model, batch = toy_model(modality, budget=Ratio(0.0, rounding="hidden_down")), example(modality, files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the statistics of no token
        full = one_pass(model, batch)
    require(not full.count, "a count of 0 where everything is visible", full.count.item(), modality.target, "values")
    _finite(modality, full, "where everything is visible")


def two_ranks_agree(modality: Modality, files: Sequence[Path]) -> None:
    """Another process builds the same weights, in the same order, and makes the same of the same samples.

    With the check above: two processes with half of a batch each train as one with all of it.
    """
    there, here = elsewhere(modality, files), rank_of(modality, files)
    require_agreement(here, there, modality)
    _same(modality, here.made, there.made, "the loss and the gradients of this process from another one")


def a_fully_hidden_sample_is_harmless(modality: Modality, files: Sequence[Path]) -> None:
    """Where one sample has no visible token, or none has, loss and gradients are finite."""
    batch, model = example(modality, files), toy_model(modality)
    splits = {"one": all_hidden(*cut(model, batch), [0]), "all": all_hidden(*cut(model, batch))}
    splits["all, without a place"] = replace(splits["all"], ids_keep=splits["all"].ids_keep[:, :0], keep_valid=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the statistics of no token
        for which, split in splits.items():
            hidden = one_pass(model, batch, {NAME: split})
            _finite(modality, hidden, f"where {which} of the samples has nothing visible")


def one_visible_group_is_enough(modality: Modality, files: Sequence[Path]) -> None:
    """With the largest ratio that leaves a group of a full sample, all is finite, of shorter samples too."""
    batch = example(modality, files)
    tokens = modality.tokenize(raw_of(batch))
    groups = tokens.count // groups_of(modality.masking, tokens).size
    for budget in (
        Ratio((groups - 0.5) / groups, rounding="hidden_down"),
        Ratio(1 - 1.5 / groups, rounding="kept_down"),
    ):
        _finite(modality, one_pass(toy_model(modality, budget=budget), batch), f"with {budget}")


def every_parameter_gets_a_gradient(modality: Modality, files: Sequence[Path]) -> None:
    """One that can't be learnt is a buffer, or says `requires_grad=False`."""
    gradients = one_pass(toy_model(modality), example(modality, files)).gradients
    idle = [name for name, g in gradients.items() if g is None or not bool(g.any())]
    require(
        not idle, "a gradient for every parameter", f"none for {', '.join(idle[:3])}", modality, "embedder, position"
    )


def one_batch_can_be_learnt(modality: Modality, files: Sequence[Path]) -> None:
    """The loss of one batch, with the same masks in every step, falls below a share of its first value."""
    model, batch = toy_model(modality, width=64), example(modality, files)  # half as wide can't hold large maps
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    first, lowest = None, float("inf")
    for _ in range(STEPS):
        loss = one_pass(model, batch).loss
        first, lowest = loss if first is None else first, min(lowest, loss)
        if lowest < LEARNT * first:
            return
        optimiser.step()
    said = f"a loss below {LEARNT} of its first value {first:.3g} within {STEPS} steps on one batch"
    require(False, said, f"{lowest:.3g} at best", modality, "tokenize, embedder, position")


def bfloat16_is_finite_and_near(modality: Modality, files: Sequence[Path]) -> None:
    """Under autocast loss and gradients are finite, and the loss is within a tenth of that in float32."""
    batch = example(modality, files)
    exact = one_pass(toy_model(modality), batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = one_pass(toy_model(modality), batch)
    _finite(modality, exact, "in float32")
    _finite(modality, rough, "in bfloat16")
    near = abs(rough.loss - exact.loss) <= 0.1 * abs(exact.loss)
    require(near, f"a loss near {exact.loss:.4g} in bfloat16", f"{rough.loss:.4g}", modality, "embedder, position")


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return first if second is None else second if first is None else first + second


def _missing(modality: Modality, files: Sequence[Path]) -> list[Path]:
    """Files that are not there, one for each."""
    return [file.with_name(f"missing-{file.stem}{modality.suffix}") for file in files]


def _finite(modality: Modality, found: Pass, when: str) -> None:
    bad = found.not_finite()
    require(
        not bad, f"a finite loss and finite gradients {when}", f"none for {', '.join(bad[:3])}", modality, "tokenize"
    )


def _same(modality: Modality, first: Pass, second: Pass, what: str) -> None:
    _finite(modality, second, "beside an absent sample")
    require(torch.equal(first.count, second.count), what, f"a count of {second.count.item()}", modality, "tokenize")
    require(_near(first.total, second.total), what, f"{second.total:.6g} for {first.total:.6g}", modality, "tokenize")
    for name, gradient in first.gradients.items():
        other = second.gradients[name]
        alike = other is None if gradient is None else other is not None and _near(gradient, other)
        require(alike, what, f"another gradient of {name}", modality, "embedder, position")


def _near(first: Tensor, second: Tensor) -> bool:
    """Equal but for the rounding of another size of batch."""
    return bool((first - second).abs().max() <= 1e-4 * first.abs().max() + 1e-7)
