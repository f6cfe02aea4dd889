"""What the build says of kernels that do not go with their schemas (handgrad.sdk.checking), without building any."""

import ctypes

import pytest
import torch

from handgrad.sdk import checking


class Library:
    """Stands for a library with these signatures."""

    def __init__(self, *lines: str) -> None:
        self.text = "".join(line + "\n" for line in lines).encode()

    @property
    def handgrad_signatures(self):
        def signatures():
            return self.text

        return signatures


@pytest.fixture(scope="module")
def schemas():
    library = torch.library.Library("checked_ops", "DEF")
    library.define("one(Tensor x, Tensor? y, float a, SymInt n, int[] sizes, str how) -> (Tensor, Tensor)")
    library.define("none(Tensor x) -> ()")
    library.define("two(Tensor x) -> Tensor")
    library.define("two.scaled(Tensor x, float by) -> Tensor")
    yield library
    library._destroy()


RIGHT = "Tensor Optional[Tensor] float int List[int] str"


def problems(*lines: str) -> list[str]:
    return [problem for _, problem in checking.with_other_types("checked_ops", Library(*lines))]


def test_what_is_right_is_not_mentioned(schemas):
    assert not problems(f"one\t{RIGHT}\tTensor Tensor", "none\tTensor\t", "two\tTensor\tTensor")
    assert not problems("two.scaled\tTensor float\tTensor")
    # what C++ has no word for is not compared
    assert not problems("two.scaled\tTensor *\tTensor")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            f"one\t{RIGHT.replace('float', 'int')}\tTensor Tensor",
            "argument 3 (a) of checked_ops::one is float in its schema, and int64_t in the function that implements it",
        ),
        (
            f"one\t{RIGHT.replace('Optional[Tensor]', 'Tensor')}\tTensor Tensor",
            "argument 2 (y) of checked_ops::one is Optional[Tensor] in its schema, and Tensor in the function that "
            "implements it",
        ),
        (
            f"one\t{RIGHT.replace('List[int]', 'List[float]')}\tTensor Tensor",
            "argument 5 (sizes) of checked_ops::one is List[int] in its schema, and std::vector<double> in the "
            "function that implements it",
        ),
        (
            f"one\t{RIGHT}\tTensor float",
            "result 2 of checked_ops::one is Tensor in its schema, and double in the function that implements it",
        ),
        (
            "one\tTensor\tTensor Tensor",
            "checked_ops::one has 6 arguments in its schema, and the function that implements it has 1",
        ),
        (
            "none\tTensor\tTensor",
            "checked_ops::none has 0 results in its schema, and the function that implements it has 1",
        ),
        (
            "two.scaled\tTensor int\tTensor",
            "argument 2 (by) of checked_ops::two.scaled is float in its schema, and int64_t in the function that "
            "implements it",
        ),
    ],
)
def test_what_differs_is_named(schemas, line, sentence):
    assert problems(line) == [sentence]


def test_a_kernel_without_a_schema(schemas):
    library = torch.library.Library("checked_ops", "IMPL")
    library.impl("misspelt", lambda x: x, "CPU")
    try:
        assert (
            "checked_ops::misspelt",
            "a kernel is registered for checked_ops::misspelt, which no schema defines; handgrad::implement and "
            "library.def must name it alike",
        ) in list(checking.without_schema())
    finally:
        library._destroy()


def test_a_library_that_keeps_no_types_is_left_alone():
    assert not list(checking.with_other_types("checked_ops", ctypes.CDLL(None)))
