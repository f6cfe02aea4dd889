"""What can be said of the CUDA kernels without a device; cuda_report.py prints it all."""

import pytest

import cuda_report
from handgrad.sdk.loading import folder_of

ARCHITECTURE = 90


@pytest.mark.skipif(not (cuda_report.nvcc() and cuda_report.tools()), reason="no nvcc, no cuobjdump or no nvdisasm")
def test_machine_code():
    # That no register spills is the build's to say: HANDGRAD_NO_SPILLS in cmake/handgradConfig.cmake.
    of_ops = cuda_report.built(ARCHITECTURE)
    ops = {source.stem.removesuffix("_cuda") for source in cuda_report.SOURCES}
    if cuda_report.SHARED in of_ops:
        # Compiled as one, some have none but those that they share with others of their kind.
        assert of_ops.keys() <= ops | {cuda_report.SHARED}
        assert len(of_ops) > len(ops) / 2
    else:
        assert of_ops.keys() == ops
    kernels = [kernel for of_op in of_ops.values() for kernel in of_op]
    for kernel in kernels:
        assert kernel.occupancy > 0, f"{kernel.name} does not fit a multiprocessor"
        assert kernel.stores, f"{kernel.name} writes nothing"
    # The usual case of kernels over elements and over pairs of boxes goes by whole vectors.
    vectors = [kernel for kernel in kernels if kernel.name.startswith(("contiguous_elements", "dense_pairs"))]
    assert vectors
    assert all(max(kernel.loads) == 16 for kernel in vectors)


@pytest.mark.skipif(
    not list(folder_of("handgrad").glob("libhandgrad_emulated*")), reason="no emulated library was built"
)
def test_no_pass_moves_more_bytes_than_its_spec_allows():
    rows = cuda_report.moved()
    assert {row.pass_name for row in rows} == {"forward", "backward", "double_backward"}
    for row in rows:
        # Fewer than the floor would mean that something is not counted.
        assert 1 <= row.factor <= row.allowed, f"{row.op}, {row.pass_name}: {row.counted} bytes for {row.floor}"


def test_occupancy_is_what_nvidias_tables_say():
    of = cuda_report.MULTIPROCESSORS
    assert of[90].occupancy(256, 32, 0) == 1
    assert of[90].occupancy(256, 64, 0) == 0.5
    assert of[90].occupancy(256, 255, 0) == 0.125
    assert of[80].occupancy(256, 33, 0) == 0.75
    assert of[90].occupancy(256, 32, 48 * 1024) == 0.5
    assert of[75].occupancy(1024, 64, 0) == 1
