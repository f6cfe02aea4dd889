"""The test matrix: an op describes itself once, and every promise of the op contract is asked of it.

    # tests/losses/test_my_loss.py
    from handgrad.testing import OpSpec, Sample, matrix

    SPEC = OpSpec(name="my_loss", ...)
    test_matrix = matrix(SPEC)

``pytest`` then runs one test per promise and case, named ``op-tick-case``:
``test_matrix[my_loss-03_derivatives-gradcheck_soft]``. What cannot hold for an op is said in its spec, with the
reason, and shows as a skipped test with that reason. Works for any op registered with
:func:`handgrad.registration.register`.

Not everything need be asked everywhere: of the CUDA kernels in the emulator, say, only what they can get wrong where
the CPU's are right. ``pytest -p handgrad.testing.plugin --tier kernels`` asks just that; the tiers are in
:mod:`handgrad.testing.tiers`.

Needs ``pip install handgrad[testing]``; the ONNX promise needs ``handgrad[onnx]`` too.
"""

from handgrad.testing.matrix import TICKS, matrix
from handgrad.testing.spec import NOT_ON_A_DEVICE, Bad, OpSpec, Sample, far_apart, reseeded

__all__ = ["NOT_ON_A_DEVICE", "TICKS", "Bad", "OpSpec", "Sample", "far_apart", "matrix", "reseeded"]
