"""Checks of a target, `check(target)`, on every kind of tokens that it takes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmim.errors import OptionError
from mmim.modality import Target
from mmim.records import Tokens
from mmim.testing.failure import require
from mmim.testing.running import Check
from mmim.testing.storing import require_pickling, require_plain_fields
from mmim.testing.toys import TOYS, Toy, some_tokens, toy_tokens

STEPS = 100
"""Steps of Adam within which a prediction of ids is found."""
NOTHING = 0.05
"""A loss below it counts as none, where the prediction had to be found."""


def it_takes_some_tokens(target: Target) -> None:
    """Of maps, clips, series, padded ones, groups and ids it refuses some at most, with an OptionError."""
    require(any(True for _ in _taken(target)), f"values for one of {', '.join(TOYS)}", "none", target, "size, values")


def values_and_losses_have_the_declared_shapes(target: Target) -> None:
    """`values` gives `[b m *p]`, `loss` `[b m]` in float32 or better, from predictions in bfloat16 as well."""
    for case in _taken(target):
        values, places = case.values(), tuple(case.ids.shape)
        require(case.size >= 1, "a size of at least 1", case.size, target, "size")
        shape = tuple(values.shape)
        fits = shape[:2] == places and (not values.is_floating_point() or shape[2:] == (case.size,))
        require(fits, f"values at {places} places, {case.size} floats or ids", f"{shape}{case}", target, "values")
        require(bool(values.isfinite().all()), "finite values", f"others{case}", target, "values")
        for kind in (torch.float32, torch.bfloat16):
            loss = target.loss(case.noise().to(kind), values)
            came = f"{loss.dtype} {tuple(loss.shape)} of {kind}{case}"
            exact = loss.dtype in (torch.float32, torch.float64) and tuple(loss.shape) == places
            require(exact, f"losses {places} in float32 or better", came, target, "loss")
            require(bool(loss.isfinite().all()), "finite losses", f"others{case}", target, "loss")


def flat_tokens_are_finite(target: Target) -> None:
    """Where all values of a token are the same, values, losses and gradients are finite."""
    for case in _taken(target):
        flat = replace(case, tokens=replace(case.tokens, values=torch.zeros_like(case.tokens.values)))
        loss, gradient = _judged(target, case.noise(), flat.values())
        finite = all(bool(part.isfinite().all()) for part in (flat.values(), loss, gradient))
        require(finite, "finite values, losses and gradients of flat tokens", f"others{case}", target, "values, loss")


def a_perfect_prediction_costs_nothing(target: Target) -> None:
    """The loss of the target itself is zero; of ids, that of a prediction which a few steps of Adam find."""
    for case in _taken(target):
        values = case.values()
        pred, bound = (values, 1e-6) if values.is_floating_point() else (_found(target, case.noise(), values), NOTHING)
        largest = float(target.loss(pred, values).max())
        require(abs(largest) <= bound, f"a loss of at most {bound}", f"{largest:.3g}{case}", target, "loss")


def gradients_are_finite(target: Target) -> None:
    """Those of predictions, also of perfect ones; where a prediction is wrong there is one."""
    for case in _taken(target):
        values = case.values()
        _, wrong = _judged(target, case.noise(), values)
        moved = bool(wrong.isfinite().all()) and bool(wrong.flatten(1).any(dim=1).all())
        require(moved, "a finite gradient of a wrong prediction", f"none or no number{case}", target, "loss")
        if values.is_floating_point():
            _, right = _judged(target, values, values)
            finite = bool(right.isfinite().all())
            require(finite, "a finite gradient at the target itself", f"no number{case}", target, "loss")


def values_follow_the_places(target: Target) -> None:
    """Places in another order give the same values in this order."""
    for case in _taken(target):
        order = torch.randperm(case.ids.shape[1], generator=torch.Generator().manual_seed(1))
        turned = replace(case, ids=case.ids[:, order])
        same = _near(turned.values(), case.values()[:, order])
        require(same, "the same values at the same places", f"others in another order{case}", target, "values")


def a_sample_is_judged_by_itself(target: Target) -> None:
    """Its values and its losses do not depend on the other samples of the batch."""
    for case in _taken(target):
        values, noise = case.values(), case.noise()
        losses = target.loss(noise, values)
        for row in range(len(values)):
            one = replace(case, tokens=some_tokens(case.tokens, [row]), ids=case.ids[row : row + 1])
            own = one.values()
            require(_near(own[0], values[row]), "the values of a sample alone", f"others{case}", target, "values")
            same = _near(target.loss(noise[row : row + 1], own)[0], losses[row])
            require(same, "the losses of a sample alone", f"others{case}", target, "loss")


def pieces_have_the_shape_of_tokens(target: Target) -> None:
    """`pieces` gives `[b m *piece]` without NaN, or None for what can't be drawn."""
    for case in _taken(target):
        pieces = target.pieces(case.noise(), case.tokens, case.ids, case.toy)
        if pieces is not None:
            shape = (*case.ids.shape, *case.toy.piece)
            fits = tuple(pieces.shape) == shape and bool(pieces.isfinite().all())
            require(fits, f"finite pieces {shape}, or None", f"{tuple(pieces.shape)}{case}", target, "pieces")


def values_leave_their_input_alone(target: Target) -> None:
    """Values have no gradient, and neither they nor losses nor pieces write into what they are handed."""
    for case in _taken(target):
        pred, values = case.noise(), case.values()
        require(not values.requires_grad, "values without a gradient", f"some with{case}", target, "values")
        before = [part.clone() for part in (case.tokens.values, case.ids, pred, values)]
        case.values()
        target.loss(pred, values)
        target.pieces(pred, case.tokens, case.ids, case.toy)
        after = (case.tokens.values, case.ids, pred, values)
        same = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        require(same, "tokens, predictions and values as they were", f"others{case}", target, "values, loss, pieces")


def it_survives_pickling(target: Target) -> None:
    """An equal target comes out of a pickle."""
    require_pickling(target)


def its_fields_survive_a_recipe_file(target: Target) -> None:
    """Equal fields come out of `recipe.yaml` and of a checkpoint's `config.json`."""
    require_plain_fields(target)


TARGET_CHECKS: tuple[Check, ...] = (
    it_takes_some_tokens,
    values_and_losses_have_the_declared_shapes,
    flat_tokens_are_finite,
    a_perfect_prediction_costs_nothing,
    gradients_are_finite,
    values_follow_the_places,
    a_sample_is_judged_by_itself,
    pieces_have_the_shape_of_tokens,
    values_leave_their_input_alone,
    it_survives_pickling,
    its_fields_survive_a_recipe_file,
)
"""Every property that any target must have, `check(target)`."""


@dataclass(frozen=True, eq=False)
class Case:
    """A target asked for some places `ids [b m]` of the tokens of one toy; as text it says which."""

    target: Target
    name: str
    toy: Toy
    tokens: Tokens
    ids: Tensor

    @property
    def size(self) -> int:
        """Numbers predicted for a token."""
        return self.target.size(self.toy)

    def values(self) -> Tensor:
        """What is to be predicted."""
        return self.target.values(self.tokens, self.ids, self.toy)

    def noise(self) -> Tensor:
        """A wrong prediction."""
        return torch.randn(*self.ids.shape, self.size, generator=torch.Generator().manual_seed(2))

    def __str__(self) -> str:
        return f" for {self.name}"


def _taken(target: Target) -> Iterator[Case]:
    """The kinds of tokens that the target does not refuse, with half of the places of each sample, in any order."""
    for name, toy in TOYS.items():
        tokens = toy_tokens(name, b=3)
        noise = torch.rand(tokens.values.shape[:2], generator=torch.Generator().manual_seed(0))
        case = Case(target, name, toy, tokens, noise.argsort(dim=1)[:, : tokens.count // 2])
        if not _refuses(case):
            yield case


def _refuses(case: Case) -> bool:
    try:
        case.size  # noqa: B018, it may refuse
        case.values()
    except OptionError:
        return True
    return False


def _judged(target: Target, pred: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The losses of a prediction and its gradient."""
    asked = pred.clone().requires_grad_()
    loss = target.loss(asked, values)
    (gradient,) = torch.autograd.grad(loss.sum(), asked)
    return loss.detach(), gradient


def _found(target: Target, start: Tensor, values: Tensor) -> Tensor:
    """A prediction of less and less loss."""
    pred = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([pred], lr=0.3)
    for _ in range(STEPS):
        optimiser.zero_grad()
        target.loss(pred, values).sum().backward()
        optimiser.step()
    return pred.detach()


def _near(first: Tensor, second: Tensor) -> bool:
    """Equal but for the rounding of another shape."""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-5)
