"""References and fakes of the private ops: the op's own reference, differentiated by torch once and twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from handgrad.arguments import check_like
from handgrad.derivatives.described import Described
from handgrad.derivatives.roles import Op, argument_of, has_gradient


class References(Described):
    def backward_reference(self, *args: Any) -> Any:
        """The backward in plain PyTorch: the reference, differentiated by torch."""
        named = self.backward_op.named(args)
        wanted = list(self._wanted(self.backward_op, named, self.backward_op.results))
        arguments = {name: named[name] for name in (*self.backward_op.tensors[1:], *self.op.others)}
        for name in self.omitted:
            # The op is linear in it, or the backward would need it.
            arguments[name] = self.like_omitted(name, named) if name in wanted else None

        def forward(*tensors: Tensor) -> Tensor:
            given = {**arguments, **dict(zip(wanted, tensors, strict=True))}
            return self.reference(*(given.get(name) for name in (*self.op.tensors, *self.op.others)))

        grads: Sequence[Tensor] = ()
        if wanted:
            grads = torch.func.vjp(forward, *(arguments[name] for name in wanted))[1](named["grad_output"])
        return self._filled_in(self.backward_op, named, dict(zip(wanted, grads, strict=True)))

    def double_backward_reference(self, *args: Any) -> Any:
        """The double backward in plain PyTorch: the backward's reference, differentiated by torch."""
        op = self.double_backward_op
        named = op.named(args)
        directions = {
            name: named[f"grad_grad_{name}"] for name in self.differentiable if named[f"grad_grad_{name}"] is not None
        }
        wanted = list(self._wanted(op, named, op.results[1:]))
        if named["output_mask"][0]:
            wanted.insert(0, "output")
        variables = ["grad_output" if name == "output" else name for name in wanted]
        if not directions:
            return self._filled_in(
                op, named, {n: torch.zeros_like(named[v]) for n, v in zip(wanted, variables, strict=True)}
            )
        mask = [name in directions for name in self.differentiable]

        def backward(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = {**named, **dict(zip(variables, tensors, strict=True)), "output_mask": mask}
            grads = self.backward_reference(
                *(given[name] for name in self.backward_op.tensors + self.backward_op.others)
            )
            grads = (grads,) if isinstance(grads, Tensor) else grads
            return tuple(grad for grad, asked in zip(grads, mask, strict=True) if asked)

        grads: Sequence[Tensor] = ()
        if wanted:
            pull_back = torch.func.vjp(backward, *(named[name] for name in variables))[1]
            grads = pull_back(tuple(directions.values()))
        return self._filled_in(op, named, dict(zip(wanted, grads, strict=True)))

    def like_omitted(self, name: str, named: Mapping[str, Any]) -> Tensor:
        """A tensor of zeros like the argument ``name``, which the backward leaves out."""
        return self.omitted[name](**{tensor: named[tensor] for tensor in self.backward_op.tensors[1:]})

    def _wanted(self, op: Op, named: Mapping[str, Any], results: Sequence[str]) -> Iterator[str]:
        """The arguments whose gradients ``results`` are, where they are asked for and there."""
        for result in results:
            name = argument_of(result)
            if named["output_mask"][op.results.index(result)] and has_gradient(named, name):
                yield name

    def _filled_in(self, op: Op, named: Mapping[str, Any], made: Mapping[str, Tensor]) -> Any:
        """The results of ``op``: those made, by the name of the argument, and tensors without elements for the rest."""
        model = named[self.backward_op.tensors[1]]
        results = []
        for result in op.results:
            name = argument_of(result)
            grad = made.get(name)
            like = named[name] if name in named and has_gradient(named, name) else model
            results.append(like.new_empty(0) if grad is None else grad)
        return results[0] if len(results) == 1 else tuple(results)

    # ---- fakes -------------------------------------------------------------------------------------------------------

    def backward_fake(self, *args: Any) -> Any:
        named = self.backward_op.named(args)
        self._fake_output(named)
        return self._filled_in(self.backward_op, named, dict(self._fake_gradients(self.backward_op, named)))

    def double_backward_fake(self, *args: Any) -> Any:
        op = self.double_backward_op
        named = op.named(args)
        output = self._fake_output(named)
        made = dict(self._fake_gradients(op, named))
        if named["output_mask"][0]:
            made["output"] = output
        return self._filled_in(op, named, made)

    def _fake_output(self, named: Mapping[str, Any]) -> Tensor:
        output = self.fake(*(named.get(name) for name in (*self.op.tensors, *self.op.others)))
        check_like(self.title, "grad_output", named["grad_output"], "output", output)
        return output

    def _fake_gradients(self, op: Op, named: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
        for name in self._wanted(op, named, [result for result in op.results if result != "grad_grad_output"]):
            yield name, self.like_omitted(name, named) if name in self.omitted else self.gradient_like(named[name])
