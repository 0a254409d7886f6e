"""How an exercise is checked: a learner's function beside the right one, case by case, and what is wrong in words."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

RESULT = "the result"
Leaves = dict[str, Tensor]  # the tensors and numbers of a nested value, by where they stand in it


def nowhere(index: list[int], arguments: dict) -> str:
    return ""


@dataclass(frozen=True, eq=False)
class Exercise:
    """A function that a learner writes, and what shows whether it is right.

    returns: what it returns, in words. right: the function asked for. cases: a case in words → its arguments by name,
    made anew by each call. mistakes: a likely mistake in words → the function that makes it. unsteady: what it means
    that two equal calls differ. place: (index, arguments) → which entry of the result that is, in words. measure:
    (function, make) → what is compared where the results are random. tolerance: relative and absolute, of it.
    """

    name: str
    returns: str
    right: Callable
    cases: dict[str, Callable[[], dict]]
    mistakes: dict[str, Callable]
    unsteady: str = "nothing is random here"
    place: Callable[[list[int], dict], str] = nowhere
    measure: Callable[[Callable, Callable], Leaves] | None = None
    tolerance: tuple[float, float] = (1e-3, 1e-5)

    def __call__(self, function: Callable) -> bool:
        """Print one line about `function`; return whether it is right. Whatever it does, nothing is raised."""
        fault = self.fault(function)
        print(f"✗ {self.name}: {fault}" if fault else f"✓ {self.name}: right in all {len(self.cases)} cases")
        return fault is None

    def fault(self, function: Callable) -> str | None:
        """What is wrong with a learner's function, in words; None when it is right."""
        if not callable(function):
            return f"give the function itself, without calling it: check.{self.name}({self.name})"
        # 1. its results in all cases: the first fault of their form, and their values
        faults, values = {}, {}
        for case, make in self.cases.items():
            arguments = make()
            try:
                given, again = function(*arguments.values()), function(*make().values())
                if given is None or given is ...:
                    return f"it returns nothing; replace the ... by code that returns {self.returns}"
                faults[case] = self.fault_of_form(case, given, leaves({RESULT: again}), leaves(arguments))
                values[case] = {} if faults[case] and self.measure else self.values(function, make, given)
            except Exception as error:  # noqa: BLE001 (whatever a learner's function raises)
                return f"{case}: it stops with {words_of(error)}{line_of(function, error)}"
        # 2. the first case that is not right, and the mistake that explains all of them
        for case in self.cases:
            fault = faults[case] or self.fault_of_value(case, values[case])
            if fault:
                likely = [words for words, mistake in self.mistakes.items() if self.explains(mistake, values)]
                return f"{case}: {fault}" + (f". Likely: {likely[0]}" if likely else "")
        return None

    def fault_of_form(self, case: str, given, again: Leaves, after: Leaves) -> str | None:
        """given: the result; again: that of an equal call; after: the arguments after the call."""
        make = self.cases[case]
        before, expected = leaves(make()), self.right(*make().values())
        if changed := [name for name in before if not is_equal(before[name], after.get(name))]:
            return f"it changes its input {changed[0]}; work on a copy (masked_fill, clone, torch.where, sorted)"
        wanted, found = leaves({RESULT: expected}), leaves({RESULT: given})
        if wanted.keys() != found.keys():
            return f"it returns {type(given).__name__}, expected {self.returns}"
        for name, tensor in found.items():
            if tensor.shape != wanted[name].shape:
                shapes = f"{list(tensor.shape)}, expected {list(wanted[name].shape)}"
                return f"{name} has the shape {shapes}: {self.returns}"
            if kind(tensor) != kind(wanted[name]):
                return f"{name} holds {kind(tensor)}, expected {kind(wanted[name])}: {self.returns}"
        if getattr(expected, "requires_grad", False) and not getattr(given, "requires_grad", False):
            return "no gradient flows through the result; return the tensor without item(), detach() or no_grad()"
        if not are_equal(found, again, (1e-4, 1e-6)):
            return f"two calls with equal arguments differ: {self.unsteady}"
        return None

    def fault_of_value(self, case: str, values: Leaves) -> str | None:
        """The first entry that differs, in words."""
        wanted = values_of(self, self.right, case)
        for name, tensor in values.items():
            if not is_equal(tensor, wanted[name], self.tolerance):
                return self.difference(name, tensor, wanted[name], self.cases[case]())
        return None

    def difference(self, name: str, given: Tensor, expected: Tensor, arguments: dict) -> str:
        relative, absolute = self.tolerance
        differs = ~torch.isclose(given.double(), expected.double(), rtol=relative, atol=absolute, equal_nan=True)
        index = differs.nonzero()[0].tolist()
        values = (tensor[tuple(index)].item() for tensor in (given, expected))
        found, wanted = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        sentence = f"{name}{index or ''}{self.place(index, arguments)} is {found}, expected {wanted}"
        return sentence + (f" ({int(differs.sum())} of {given.numel()} entries differ)" if index else "")

    def values(self, function: Callable, make: Callable, result) -> Leaves:
        """What is compared."""
        return self.measure(function, make) if self.measure else leaves({RESULT: result})

    def explains(self, mistake: Callable, values: dict[str, Leaves]) -> bool:
        """Whether a learner's values are those of `mistake` in every case."""
        return all(are_equal(given, values_of(self, mistake, case), self.tolerance) for case, given in values.items())


@cache
def values_of(exercise: Exercise, function: Callable, case: str) -> Leaves:
    """What is compared of the right function, or of a mistake."""
    make = exercise.cases[case]
    return exercise.values(function, make, function(*make().values()))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaves(value, name: str = "") -> Leaves:
    """{"x_0": …} or {"the result[0]": …}; objects that are no tensors, numbers, dicts or sequences have none."""
    if isinstance(value, Tensor | bool | int | float):
        return {name: torch.as_tensor(value).detach().cpu().clone()}
    if not isinstance(value, dict | list | tuple):
        return {}
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    named = ((f"{name}[{key!r}]" if name else key, part) for key, part in parts)
    return {leaf: tensor for key, part in named for leaf, tensor in leaves(part, key).items()}


def kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "booleans"
    return "floats" if tensor.is_floating_point() else "whole numbers"


def is_equal(a: Tensor, b: Tensor | None, tolerance: tuple[float, float] = (0.0, 0.0)) -> bool:
    if b is None or a.shape != b.shape or kind(a) != kind(b):
        return False
    relative, absolute = tolerance
    return torch.allclose(a.double(), b.double(), rtol=relative, atol=absolute, equal_nan=True)


def are_equal(a: Leaves, b: Leaves, tolerance: tuple[float, float] = (0.0, 0.0)) -> bool:
    return a.keys() == b.keys() and all(is_equal(a[name], b[name], tolerance) for name in a)


def words_of(error: Exception) -> str:
    """Its kind and the first line of its message."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


def line_of(function: Callable, error: Exception) -> str:
    """The line of the learner's own code that raised, as far as Python knows it."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file and frame.line]
    return f", in the line `{lines[-1]}`" if lines else ""
