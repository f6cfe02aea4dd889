"""handgrad.arguments: which values mean a number, and what is said of the others."""

from __future__ import annotations

import doctest
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from handgrad import arguments
from handgrad.arguments import (
    FLOAT_MAX,
    INT32_MAX,
    check_bool,
    check_choice,
    check_int,
    check_pair,
    check_range,
)


def number(value: Any) -> None:
    check_range("my_op", "gamma", value, 0, FLOAT_MAX, "a finite number, at least 0", also=-1)


def integer(value: Any) -> int:
    return check_int("my_op", "size", value, 1, INT32_MAX)


def pair(value: Any) -> tuple[int, int]:
    return check_pair("my_op", "padding", value, 1)


NUMBERS: list[Any] = [2, 2.0, -1, True, Fraction(1, 3), Decimal("0.5"), np.float32(2), np.float64(2), np.float16(2)]
NUMBERS += [np.int8(2), np.array(2.0), torch.tensor(2.0), torch.tensor([2]), torch.tensor(-1)]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_what_a_number_may_be(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns where a limit is beyond its type
        number(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((value, ValueError) for value in (-0.5, -2, math.nan, math.inf, 10**400, np.float32("nan"), np.float32(-2))),
        *((value, TypeError) for value in ("2", None, 1j, [2.0], np.ones(3), torch.ones(3), np.complex64(1))),
    ],
    ids=repr,
)
def test_what_no_number_is(value, error):
    with pytest.raises(error, match=r"^my_op: gamma must be a finite number, at least 0; got "):
        number(value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3])], ids=repr)
def test_a_whole_number_becomes_pythons(value):
    for result in (integer(value), *pair((value, 3)), *pair([3, value])):
        assert type(result) is int
        assert result == 3


def test_one_whole_number_is_both_of_a_pair():
    for value in (3, np.int64(3), torch.tensor(3)):
        assert pair(value) == (3, 3)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((value, TypeError) for value in (3.0, "3", None, True, np.bool_(True), np.float64(3), 3j)),
        *((value, TypeError) for value in (torch.tensor(3.0), torch.tensor(True), [3, 3, 3], {3, 4})),
        *((value, ValueError) for value in (0, np.int8(0), torch.tensor(-5))),
    ],
    ids=repr,
)
def test_what_no_whole_number_is(value, error):
    with pytest.raises(error, match=r"^my_op: size must be a whole number, at least 1; got "):
        integer(value)
    shown = r"[\(\[{]?" if isinstance(value, (list, set)) else r"\(3, "
    given = value if isinstance(value, (list, set)) else (3, value)
    with pytest.raises(error, match=f"^my_op: padding must be a whole number, at least 1, or two of them; got {shown}"):
        pair(given)


def test_a_limit_above_is_named_only_where_it_was_passed():
    with pytest.raises(
        ValueError, match="size must be a whole number, at least 1 and at most 2147483647; got 2147483648"
    ):
        integer(2**31)
    with pytest.raises(ValueError, match="at least 1 and at most 2147483647, or two of them; got"):
        pair((1, 2**31))
    with pytest.raises(ValueError, match=r"size must be odd; got 2$"):
        check_int("my_op", "size", 2, 3, expected="odd")


@pytest.mark.parametrize(
    "given", [(2, 3), [2, 3], np.array([2, 3]), torch.tensor([2, 3]), torch.Size((2, 3))], ids=repr
)
def test_two_whole_numbers(given):
    assert pair(given) == (2, 3)


def test_symbolic_sizes_stay_symbolic():
    sizes: list[Any] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        sizes.extend((integer(x.shape[0]), pair((x.shape[0], 3))))
        number(x.shape[0] / 2)
        return x.new_zeros(sizes[0])

    torch.fx.experimental.proxy_tensor.make_fx(function, tracing_mode="symbolic")(torch.ones(5))
    assert isinstance(sizes[0], torch.SymInt)
    assert isinstance(sizes[1][0], torch.SymInt)


def test_true_and_false():
    assert check_bool("my_op", "aligned", True) is True
    assert check_bool("my_op", "aligned", np.bool_(False)) is False
    for value in (1, None, "True", torch.tensor(True)):
        with pytest.raises(TypeError, match=r"^my_op: aligned must be True or False; got "):
            check_bool("my_op", "aligned", value)


def test_names():
    assert check_choice("my_op", "method", "b", ("a", "b", "c")) == "b"
    for value, error in (("d", ValueError), ("", ValueError), (3, TypeError), (None, TypeError), (["a"], TypeError)):
        with pytest.raises(error, match=r"^my_op: method must be 'a', 'b' or 'c'; got "):
            check_choice("my_op", "method", value, ("a", "b", "c"))
    with pytest.raises(ValueError, match="method must be 'a'; got 'b'"):
        check_choice("my_op", "method", "b", ["a"])


@pytest.mark.parametrize(
    "check", [number, integer, pair, lambda value: pair((1, value))], ids=["number", "integer", "pair", "in_pair"]
)
def test_a_number_that_wants_a_gradient_is_refused(check: Callable[[Any], Any]):
    """It would silently get none. Without one it is a number."""
    check(torch.tensor(1))
    wanting = torch.tensor(1.0, requires_grad=True)
    message = "must be .*, without a gradient: the op has no derivative with respect to .* requires grad"
    for value in (wanting, torch.nn.Parameter(torch.tensor(1.0))):
        with pytest.raises(TypeError, match=message):
            check(value)
    number(wanting.detach())
    with forward_ad.dual_level(), pytest.raises(TypeError, match=message):
        check(forward_ad.make_dual(torch.tensor(1.0), torch.tensor(1.0)))

    def loss(value: torch.Tensor) -> torch.Tensor:
        check(value)
        return value

    with pytest.raises(TypeError, match=message):
        torch.func.grad(loss)(torch.tensor(1.0))
    with pytest.raises(TypeError, match=message):
        torch.func.jvp(loss, (torch.tensor(1.0),), (torch.tensor(1.0),))


def test_examples_in_the_docstrings_are_true():
    names = {name: getattr(arguments, name) for name in dir(arguments)}
    assert doctest.testmod(arguments, extraglobs=names).failed == 0
