// What the host entries of all devices share: checks, and the tensors as loops see them.
#pragma once

#include <optional>

#include "abi/check.h"
#include "abi/output_mask.h"
#include "abi/reduction.h"
#include "abi/view.h"
#include "contrastive_loss_math.h"
#include "kinds/formula.h"
#include "math/stored.h"

namespace handgrad::contrastive_loss {

inline constexpr const char* kOp = "contrastive_loss";

enum class Pass { value, gradient, second };

// What a pass reads and writes; what is not asked for is left out.
struct Operands {
  const Tensor &input1, &input2, &targets;         // [N, D], [N, D], [N] of int64
  std::optional<Tensor> direction1, direction2;    // [N, D]
  std::optional<Tensor> grad_output, losses;       // [N], or one element of all
  std::optional<Tensor> grad_input1, grad_input2;  // [N, D]
  double margin;
  bool legacy;
  Reduction reduction;

  int64_t pairs() const { return input1.sizes()[0]; }
  int64_t width() const { return input1.sizes()[1]; }
  bool reduced() const { return reduction != Reduction::none; }
  // The mean of no pairs is 0.
  double divisor() const {
    return reduction == Reduction::mean ? static_cast<double>(std::max<int64_t>(1, pairs())) : 1.0;
  }
  ScalarType loss_dtype() const {
    return input1.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  Tensor empty_losses() const {
    const int64_t count = pairs(), one = 1;
    const int32_t dtype = loss_dtype() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
    if (reduced()) return empty_strided(Sizes(), Sizes(), dtype, input1);
    return empty_strided(Sizes(&count, 1), Sizes(&one, 1), dtype, input1);
  }
};

// The same as kernels see it, computed in C.
template <class C>
struct Views {
  int64_t pairs, width;
  ContrastiveLoss<C> formula;
  C factor;  // of a grad_output that all pairs share
  StoredView<const C, 2> input1, input2, direction1, direction2;
  View<const int64_t, 1> targets;
  View<const C, 1> grad_output;
  View<C, 1> losses;
  StoredView<C, 2> grad_input1, grad_input2;

  explicit Views(const Operands& operands)
      : pairs(operands.pairs()),
        width(operands.width()),
        formula{static_cast<C>(operands.margin), operands.legacy},
        factor(static_cast<C>(operands.reduced() ? 1 / operands.divisor() : 1)),
        input1(stored_view<C, 2>(operands.input1)),
        input2(stored_view<C, 2>(operands.input2)),
        direction1(stored_view<C, 2>(operands.direction1)),
        direction2(stored_view<C, 2>(operands.direction2)),
        targets(view<int64_t, 1>(operands.targets)) {
    if (operands.grad_output) {
      grad_output = {operands.grad_output->const_data_ptr<C>(), {}};
      if (!operands.reduced()) grad_output.strides[0] = operands.grad_output->strides()[0];
    }
    if (operands.losses && !operands.reduced()) losses = mutable_view<C, 1>(*operands.losses);
    if (operands.grad_input1) grad_input1 = mutable_stored_view<C, 2>(*operands.grad_input1);
    if (operands.grad_input2) grad_input2 = mutable_stored_view<C, 2>(*operands.grad_input2);
  }
};

inline Operands check_arguments(const Tensor& input1, const Tensor& input2, const Tensor& targets, double margin,
                                bool legacy, int64_t reduction) {
  check_floating(kOp, "input1", input1);
  check_rank(kOp, "input1", input1, 2, "(pairs, embedding)");
  check_like(kOp, "input2", input2, "input1", input1);
  check_shape(kOp, "targets", targets, {input1.sizes()[0]}, "(pairs,)");
  HANDGRAD_CHECK(targets.scalar_type() == ScalarType::Long, kOp, ": targets must be int64; got ",
                 dtype_text(targets.scalar_type()));
  check_device(kOp, "targets", targets, "input1", input1);
  return {input1, input2, targets, {}, {}, {}, {}, {}, {}, margin, legacy, as_reduction(kOp, reduction)};
}

inline void set_grad_output(Operands& operands, const Tensor& grad_output) {
  const bool fits = operands.reduced() ? grad_output.numel() == 1
                                       : grad_output.dim() == 1 && grad_output.sizes()[0] == operands.pairs();
  HANDGRAD_CHECK(fits && grad_output.scalar_type() == operands.loss_dtype(), kOp, ": grad_output must be ",
                 operands.reduced() ? "one element" : "one number for each pair", " of ",
                 dtype_text(operands.loss_dtype()), ", as the loss; got ", shape_text(grad_output), " of ",
                 dtype_text(grad_output.scalar_type()));
  check_device(kOp, "grad_output", grad_output, "input1", operands.input1);
  operands.grad_output = grad_output;
}

inline void set_gradients(Operands& operands, bool of1, const Tensor& grad_input1, bool of2,
                          const Tensor& grad_input2) {
  if (of1) operands.grad_input1 = grad_input1;
  if (of2) operands.grad_input2 = grad_input2;
}

// Device::run<C>(pass, operands) is what a device brings.
template <class Device>
struct Entries {
  static void run(Pass pass, const Operands& operands) {
    dispatch_compute(kOp, operands.input1.scalar_type(),
                     [&]<class C>(TypeTag<C>) { Device::template run<C>(pass, operands); });
  }

  static Tensor forward(const Tensor& input1,   // [N, D]
                        const Tensor& input2,   // [N, D]
                        const Tensor& targets,  // [N] of int64
                        double margin, bool legacy, int64_t reduction) {
    Operands operands = check_arguments(input1, input2, targets, margin, legacy, reduction);
    operands.losses = operands.empty_losses();
    run(Pass::value, operands);
    return *operands.losses;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N], or one element
                                             const Tensor& input1,       // [N, D]
                                             const Tensor& input2,       // [N, D]
                                             const Tensor& targets,      // [N] of int64
                                             double margin, bool legacy, int64_t reduction,
                                             const std::vector<bool>& output_mask) {
    Operands operands = check_arguments(input1, input2, targets, margin, legacy, reduction);
    set_grad_output(operands, grad_output);
    const std::array<bool, 2> need = as_output_mask<2>(kOp, output_mask);
    const Tensor grad_input1 = empty_if(need[0], input1), grad_input2 = empty_if(need[1], input2);
    set_gradients(operands, need[0], grad_input1, need[1], grad_input2);
    if (need[0] || need[1]) run(Pass::gradient, operands);
    return {grad_input1, grad_input2};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_input1,  // [N, D]
                                                            const std::optional<Tensor>& grad_grad_input2,  // [N, D]
                                                            const Tensor& grad_output,  // [N], or one element
                                                            const Tensor& input1,       // [N, D]
                                                            const Tensor& input2,       // [N, D]
                                                            const Tensor& targets,      // [N] of int64
                                                            double margin, bool legacy, int64_t reduction,
                                                            const std::vector<bool>& output_mask) {
    Operands operands = check_arguments(input1, input2, targets, margin, legacy, reduction);
    set_grad_output(operands, grad_output);
    if (grad_grad_input1) check_like(kOp, "grad_grad_input1", *grad_grad_input1, "input1", input1);
    if (grad_grad_input2) check_like(kOp, "grad_grad_input2", *grad_grad_input2, "input1", input1);
    operands.direction1 = grad_grad_input1, operands.direction2 = grad_grad_input2;
    const std::array<bool, 3> need = as_output_mask<3>(kOp, output_mask);
    const Tensor grad_grad_output = need[0] ? operands.empty_losses() : empty_placeholder(grad_output);
    const Tensor grad_input1 = empty_if(need[1], input1), grad_input2 = empty_if(need[2], input2);
    if (need[0]) operands.losses = grad_grad_output;
    set_gradients(operands, need[1], grad_input1, need[2], grad_input2);
    if (need[0] || need[1] || need[2]) run(Pass::second, operands);
    return {grad_grad_output, grad_input1, grad_input2};
  }
};

}  // namespace handgrad::contrastive_loss
