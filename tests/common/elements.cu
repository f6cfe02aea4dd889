// Opens the loops over elements of common/ to tests/test_common.py, as ops of torch: a body, on any tensors, on either
// device. Compiled twice, for the CPU and for the emulator.
#if defined(HANDGRAD_EMULATED)
#include "cuda/elementwise.cuh"
#else
#include "cpu/elementwise.h"
#endif

#include "abi/registration.h"

namespace {

using namespace handgrad;

template <class C>
struct SumAndProduct {
  // in: a, b, scalar; out: their sum, their product
  HANDGRAD_MATH void operator()(const C (&in)[3], C (&out)[2]) const {
    out[0] = in[0] + in[1] + in[2];
    out[1] = in[0] * in[1];
  }
};

// The sum as a map or as one number, and the product. `limit` is for_each_element's.
std::tuple<Tensor, Tensor> sum_and_product(const Tensor& a,       // any shape
                                           const Tensor& b,       // that of a
                                           const Tensor& scalar,  // one element
                                           bool summed, int64_t limit) {
  const Tensor sum = summed ? empty_scalar(a) : new_like(a), product = new_like(b);
  const Output out[] = {summed ? Output::sum(sum, 2) : Output(sum), Output(product)};
  const Input in[] = {Input(a), Input(b), Input::scalar(scalar, 4)};
  dispatch_compute("sum_and_product", a.scalar_type(), [&]<class C>(TypeTag<C>) {
#if defined(HANDGRAD_EMULATED)
    for_each_element<C>("sum_and_product", a, SumAndProduct<C>{}, in, out, limit);
#else
    static_cast<void>(limit);
    for_each_element<C>(a, SumAndProduct<C>{}, in, out);
#endif
  });
  return {sum, product};
}

}  // namespace

#if defined(HANDGRAD_EMULATED)
// What the runtime still remembers of a call that failed, after check_cuda has said so; -1 if it has not.
extern "C" __attribute__((visibility("default"))) int error_after_a_failure() {
  int value = 0;
  try {
    handgrad::check_cuda(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 7), "asking a device that is not there");
  } catch (const std::exception&) {
    return cudaPeekAtLastError();
  }
  return -1;
}
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(HANDGRAD_PROBE, library) {
  library.def("sum_and_product(Tensor a, Tensor b, Tensor scalar, bool summed, int limit) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(HANDGRAD_PROBE, CPU, library) {
  handgrad::implement<&sum_and_product>(library, "sum_and_product");
}
