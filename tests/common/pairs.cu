// Opens the loops over pairs of boxes of common/ to tests/test_common.py, as elements.cu does those over elements.
#if defined(HANDGRAD_EMULATED)
#include "cuda/box_pairs.cuh"
#else
#include "cpu/box_pairs.h"
#endif

#include "abi/registration.h"

namespace {

using namespace handgrad;

// Of every operand something, so that none can stand in another's place.
template <class C>
struct Mixture {
  static constexpr unsigned kReads = bit(kBoxes1) | bit(kBoxes2) | bit(kDirection2) | bit(kGradOutput),
                            kWrites = bit(kLoss) | bit(kGrad1) | bit(kGrad2);
  HANDGRAD_MATH PairResults<C> operator()(const PairInputs<C>& in) const {
    const Box<C>&a = in.boxes1, &b = in.boxes2, &d = in.direction2;
    const C g = in.grad_output;
    return {a.x1 + 2 * a.y1 + 3 * a.x2 + 4 * a.y2 - b.x1 - b.y2,
            {g + b.x1, g + b.y1, g + b.x2, g + b.y2},
            {a.x1 + d.x1, a.y1 + d.y1, a.x2 + d.x2, a.y2 + d.y2}};
  }
};

// The first numbers, a row of them or half of their sum, and both boxes. `limit` is for_each_pair's; a grad_output of
// one element is for all pairs, and a fourth of it counts.
std::tuple<Tensor, Tensor, Tensor> mixture(const Tensor& boxes1,                    // [..., 4]
                                           const Tensor& boxes2,                    // that of boxes1
                                           const std::optional<Tensor>& direction,  // that of boxes1
                                           const Tensor& grad_output,               // [...], or one element
                                           bool summed, int64_t limit) {
  const Sizes pairs(boxes1.sizes().data(), boxes1.sizes().size() - 1);
  const int32_t dtype =
      boxes1.scalar_type() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  const std::vector<int64_t> strides = contiguous_strides(pairs);
  const Tensor loss = summed ? empty_strided(Sizes(), Sizes(), dtype, boxes1)
                             : empty_strided(pairs, Sizes(strides.data(), strides.size()), dtype, boxes1);
  const Tensor grad1 = new_like(boxes1), grad2 = new_like(boxes2);
  PairOperands operands(boxes1, boxes2);
  operands.set_directions(std::nullopt, direction);
  operands.set_grad_output(grad_output.dim() == 0 ? Input::scalar(grad_output, 4) : Input(grad_output));
  operands.set_loss(summed ? Output::sum(loss, 2) : Output(loss));
  operands.set_gradients(true, grad1, true, grad2);
  dispatch_compute("mixture", boxes1.scalar_type(), [&]<class C>(TypeTag<C>) {
#if defined(HANDGRAD_EMULATED)
    for_each_pair<C>("mixture", boxes1, Mixture<C>{}, operands, limit);
#else
    static_cast<void>(limit);
    for_each_pair<C>(boxes1, Mixture<C>{}, operands);
#endif
  });
  return {loss, grad1, grad2};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(HANDGRAD_PROBE, library) {
  library.def(
      "mixture(Tensor boxes1, Tensor boxes2, Tensor? direction, Tensor grad_output, bool summed, int limit) -> "
      "(Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(HANDGRAD_PROBE, CPU, library) { handgrad::implement<&mixture>(library, "mixture"); }
