"""What the schemas of a differentiable op and of its two private ops say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from handgrad.derivatives.roles import Op, Role, argument_of


class Described:
    """The three ops by their schemas, and what their author said of them; the rules that they keep."""

    def __init__(
        self,
        name: str,
        reference: Callable[..., Tensor],
        fake: Callable[..., Tensor],
        roles: Role | Mapping[str, Role],
        gradient_like: Callable[[Tensor], Tensor],
        omitted: Mapping[str, Callable[..., Tensor]],
        extras: Mapping[str, Callable[[], Any]],
    ) -> None:
        namespace, op = name.split("::")
        self.title = op
        self.op = Op.read(name)
        self.backward_op = Op.read(f"{namespace}::_{op}_backward")
        self.double_backward_op = Op.read(f"{namespace}::_{op}_double_backward")
        self.reference, self.fake, self.gradient_like = reference, fake, gradient_like
        self.omitted, self.extras = omitted, extras
        self.roles = dict.fromkeys((*self.op.tensors, "output"), roles) if isinstance(roles, Role) else dict(roles)
        self._check()
        #: The arguments that have a gradient, in the order of the backward's results.
        self.differentiable = tuple(map(argument_of, self.backward_op.results))

    #: The three ops, differentiable in every mode that torch has.
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    double_backward: Callable[..., Any]

    def role(self, name: str) -> Role:
        """The role of a tensor argument or of a result."""
        if name in self.roles:
            return self.roles[name]
        role = self.roles[argument_of(name)]
        return role.gradient or role

    def _check(self) -> None:
        """The schemas keep to the rules of :mod:`handgrad.derivatives`."""
        first, second = self.backward_op, self.double_backward_op
        gradients = {argument_of(result) for result in first.results}
        directions = tuple(f"grad_{result}" for result in first.results)
        others = (*self.op.others, *self.extras, "output_mask")
        rules = {
            "every tensor, and output, must have a role": {*self.op.tensors, "output"} <= set(self.roles),
            "the backward's first argument must be grad_output": first.tensors[:1] == ("grad_output",),
            "the backward's other tensors must be those of the op, by name": set(first.tensors[1:])
            <= set(self.op.tensors),
            "the backward's results must be named grad_ and a tensor of the op": gradients <= set(self.op.tensors),
            "a tensor that the backward leaves out must be in omitted": gradients - set(first.tensors)
            == set(self.omitted),
            f"the double backward must take {', '.join((*directions, *first.tensors))}": second.tensors
            == (*directions, *first.tensors),
            "the double backward's first result must be grad_grad_output": second.results[:1] == ("grad_grad_output",),
            "the double backward's other results must be gradients of the backward's tensors": {
                argument_of(result) for result in second.results[1:]
            }
            <= set(first.tensors[1:]),
            f"both must end in {', '.join(others)}": first.others == second.others == others,
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            schemas = "; ".join(
                f"{op.name}({', '.join(op.tensors + op.others)}) -> ({', '.join(op.results)})" for op in (first, second)
            )
            raise TypeError(f"{self.op.name}: {broken[0]}; got {schemas}")
