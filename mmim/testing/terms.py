"""Checks of a term of the loss, `check(term)`, in a toy model of two modalities, `maps` and `series`, with a task each.

A term that names modalities or tasks is checked with these names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mmim.config import with_fields
from mmim.decoders.self_attention import SelfAttentionDecoder
from mmim.encoders.joint import JointEncoder
from mmim.masking.budget import Ratio
from mmim.masking.random import RandomMasking
from mmim.model import MaskedModel, Method, Task
from mmim.objectives.term import Term
from mmim.records import Batch, LossTerm, map_raw
from mmim.testing.cuts import where
from mmim.testing.failure import require
from mmim.testing.running import Check
from mmim.testing.storing import require_pickling, require_plain_fields
from mmim.testing.toys import TOYS, rows_of, toy_batch

NAMES = ("maps", "series")
TERM = "term"
ABSENT: Mapping[str, Sequence[int]] = {"maps": [1], "series": [2, 5]}
"""Who of six lacks what in most of the checks."""

Losses = dict[str, LossTerm]


def losses_are_sums_with_their_counts(term: Term) -> None:
    """At least one loss, each a sum and a count without axes, in float32 or better, something counted, under names."""
    losses = _losses(term, _batch(absent={}))
    require(bool(losses), "a loss at least", "none", term, "build")
    for name, loss in losses.items():
        for what, number in (("sum", loss.total), ("count", loss.count)):
            kind = f"{number.dtype} {tuple(number.shape)} as the {what} of {name!r}"
            fits = number.shape == () and number.dtype in (torch.float32, torch.float64)
            require(fits, "numbers without axes in float32 or better", kind, term, "build, forward")
        counted = bool(loss.total.isfinite()) and float(loss.count) > 0
        came = f"{loss.total:.3g} of {loss.count:.3g} as {name!r}"
        require(counted, "a finite sum of something where everybody has all", came, term, "build, forward")


def counts_are_known_before_the_pass(term: Term) -> None:
    """`counts` says the counts of `forward`, under the same names, whoever is absent."""
    for absent in ({}, ABSENT, {"maps": range(6)}, dict.fromkeys(NAMES, range(6))):
        model, batch = _model(term), _batch(absent=absent)
        before = {name: float(count) for name, count in model.counts(batch).items()}
        after = {name: float(loss.count) for name, loss in model(batch).items()}
        require(before == after, f"counts of {after}, as `forward` gives", before, term, "build, counts")


def parts_of_a_batch_add_up_to_the_whole(term: Term) -> None:
    """Sums, counts and gradients of two parts add up to those of all: micro-batches and processes rest on it."""
    batch = _batch()
    whole, parts = _pass(term, batch), [_pass(term, rows_of(batch, rows)) for rows in (range(3), range(3, 6))]
    for name, (total, count) in whole[0].items():
        came = [sum(part[0][name][place] for part in parts) for place in (0, 1)]
        said = f"{name!r} of {total:.6g} over {count:.6g}, as of the whole"
        fits = abs(came[0] - total) <= 1e-4 * abs(total) + 1e-6 and came[1] == count
        require(fits, said, f"{came[0]:.6g} over {came[1]:.6g} of two parts", term, "build, forward")
    added = {name: parts[0][1][name] + parts[1][1][name] for name in whole[1]}
    bad = _others(added, whole[1])
    require(not bad, "gradients of the whole from two parts", f"others of {bad[:3]}", term, "build, forward")


def nobody_there_costs_nothing(term: Term) -> None:
    """Where nobody has one modality, or any, the names stay, all is finite, and what counts nothing adds up to zero."""
    names = set(_losses(term, _batch(absent={})))
    for gone in (NAMES[:1], NAMES[1:], NAMES):
        batch = _batch(absent=dict.fromkeys(gone, range(6)))
        losses, gradients = _pass(term, batch)
        require(set(losses) == names, f"the losses {sorted(names)}", sorted(losses), term, "build, forward")
        for name, (total, count) in losses.items():
            came = f"{total:.3g} over {count:.3g} as {name!r} without {' and '.join(gone)}"
            zero = count == 0 if gone == NAMES else count >= 0
            require(zero and (total == 0 or count > 0), "zero over zero where nobody is there", came, term, "forward")
        bad = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
        require(not bad, f"finite gradients without {' and '.join(gone)}", f"others of {bad[:3]}", term, "forward")


def absent_samples_count_for_nothing(term: Term) -> None:
    """Whatever stands in the place of what is absent, and a sample that has nothing, change nothing."""
    absent = {name: [*rows, 3] for name, rows in ABSENT.items()}
    batch = _batch(absent=absent)
    noise = toy_batch(NAMES, len(batch.ids), seed=9).views["main"]
    filled = {
        name: map_raw(partial(where, batch.present[name]), raw, noise[name])
        for name, raw in batch.views["main"].items()
    }
    expected = _pass(term, batch)
    for other, how in (
        (replace(batch, views={"main": filled}), "other data stand in the place of what is absent"),
        (rows_of(batch, [0, 1, 2, 4, 5]), "a sample that has nothing is left out"),
    ):
        losses, gradients = _pass(term, other)
        for name, (total, count) in expected[0].items():
            fits = abs(losses[name][0] - total) <= 1e-4 * abs(total) + 1e-6 and losses[name][1] == count
            came = f"{losses[name][0]:.6g} over {losses[name][1]:.6g}"
            require(fits, f"{name!r} of {total:.6g} over {count:.6g} also where {how}", came, term, "build, forward")
        bad = _others(gradients, expected[1])
        require(not bad, f"the same gradients where {how}", f"others of {bad[:3]}", term, "build, forward")


def twice_the_weight_is_twice_the_sum(term: Term) -> None:
    """`weight` is a factor of the sums, and counts stay."""
    once, twice = (_losses(with_fields(term, {"weight": weight}), _batch()) for weight in (1.0, 2.0))
    for name, loss in once.items():
        total, count = float(twice[name].total), float(twice[name].count)
        fits = abs(total - 2 * float(loss.total)) <= 1e-5 * abs(total) + 1e-7 and count == float(loss.count)
        came = f"{total:.6g} over {count:.6g} for {loss.total:.6g} over {loss.count:.6g}"
        require(fits, "twice the sum over the same count with twice the weight", came, term, "build, weight")


def gradients_are_finite(term: Term) -> None:
    """Of a batch, of one sample, and of samples that are all alike; of a batch some gradient is not zero."""
    batch = _batch()
    for part, which in (
        (batch, "six samples"),
        (rows_of(batch, [0]), "one"),
        (rows_of(batch, [0, 0, 0]), "three alike"),
    ):
        gradients = _pass(term, part)[1]
        bad = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
        require(not bad, f"finite gradients of {which}", f"others of {bad[:3]}", term, "build, forward")
    some = any(bool(gradient.any()) for gradient in _pass(term, batch)[1].values())
    require(some, "a gradient of the model", "none", term, "build, forward")


def every_parameter_gets_a_gradient(term: Term) -> None:
    """One of the term's own that can't be learnt is a buffer, or says `requires_grad=False`."""
    model = _model(term)
    _sum(model(_batch())).backward()
    own = [(name, p.grad) for name, p in model.terms.named_parameters() if p.requires_grad]
    idle = [name for name, gradient in own if gradient is None or not bool(gradient.any())]
    require(
        not idle, "a gradient for each of its parameters", f"none for {', '.join(idle[:3])}", term, "build, forward"
    )


def it_survives_pickling(term: Term) -> None:
    """An equal term comes out of a pickle."""
    require_pickling(term)


def its_fields_survive_a_recipe_file(term: Term) -> None:
    """Equal fields come out of `recipe.yaml` and of a checkpoint's `config.json`."""
    require_plain_fields(term)


TERM_CHECKS: tuple[Check, ...] = (
    losses_are_sums_with_their_counts,
    counts_are_known_before_the_pass,
    parts_of_a_batch_add_up_to_the_whole,
    nobody_there_costs_nothing,
    absent_samples_count_for_nothing,
    twice_the_weight_is_twice_the_sum,
    gradients_are_finite,
    every_parameter_gets_a_gradient,
    it_survives_pickling,
    its_fields_survive_a_recipe_file,
)
"""Every property that any term of the loss must have, `check(term)`."""


def _batch(absent: Mapping[str, Sequence[int]] = ABSENT) -> Batch:
    return toy_batch(NAMES, 6, absent=absent)


def _model(term: Term) -> MaskedModel:
    """The toy model, always with the same weights; a term of weight 0 would be left out."""
    method = Method(
        modalities={name: TOYS[name] for name in NAMES},
        masking=dict.fromkeys(NAMES, RandomMasking()),
        budget=Ratio(0.5),
        encoder=JointEncoder(width=16, depth=1, heads=2),
        decoders={"both": SelfAttentionDecoder(width=16, depth=1, heads=2)},
        tasks={name: Task(modality=name, decoder="both", target=TOYS[name].target) for name in NAMES},
        objective={TERM: term if term.weight else with_fields(term, {"weight": 1.0})},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedModel(method)


def _losses(term: Term, batch: Batch) -> Losses:
    losses: Losses = _model(term)(batch)
    return {name: LossTerm(loss.total.detach(), loss.count) for name, loss in losses.items()}


def _pass(term: Term, batch: Batch) -> tuple[dict[str, tuple[float, float]], dict[str, Tensor]]:
    """Sum and count of each loss, and the gradient of all sums by parameter."""
    model = _model(term)
    losses = model(batch)
    total = _sum(losses)
    if total.requires_grad:
        total.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return {name: (loss.total.item(), loss.count.item()) for name, loss in losses.items()}, gradients


def _sum(losses: Losses) -> Tensor:
    return torch.stack([loss.total for loss in losses.values()]).sum()


def _others(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Parameters whose gradients differ by more than the rounding of another size of batch."""
    bound = 1e-4 * max(float(gradient.abs().max()) for gradient in expected.values()) + 1e-6
    return [name for name, gradient in expected.items() if not bool((found[name] - gradient).abs().max() <= bound)]
