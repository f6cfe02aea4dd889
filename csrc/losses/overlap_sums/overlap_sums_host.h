// What the host entries of all devices share: checks, and the tensors as loops see them.
#pragma once

#include <limits>
#include <optional>

#include "abi/channels.h"
#include "abi/check.h"
#include "abi/layout.h"
#include "abi/output_mask.h"
#include "math/stored.h"
#include "overlap_sums_math.h"

namespace handgrad::overlap_sums {

inline constexpr const char* kOp = "overlap_sums";

inline ScalarType computed_in(const Tensor& inputs) {
  return inputs.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Of a call: what an op's numbers and shapes say. Targets are one number for each input, or one class for each
// position.
struct Problem {
  int64_t batch, channels, positions;
  Activation activation;
  std::optional<int64_t> ignore_index;
  bool squared, classes;

  // What no target equals, if none is ignored: NaN.
  template <class C>
  C ignored() const {
    return ignore_index ? static_cast<C>(*ignore_index) : std::numeric_limits<C>::quiet_NaN();
  }
};

inline bool is_integer(ScalarType dtype) {
  return dtype == ScalarType::Long || dtype == ScalarType::Int || dtype == ScalarType::Short ||
         dtype == ScalarType::Char || dtype == ScalarType::Byte || dtype == ScalarType::Bool;
}

inline Problem check_arguments(const Tensor& inputs, const Tensor& targets, int64_t activation,
                               const std::optional<int64_t>& ignore_index, bool squared) {
  check_floating(kOp, "inputs", inputs);
  HANDGRAD_CHECK(inputs.dim() >= 2, kOp, ": inputs must have shape (N, C, ...); got ", shape_text(inputs));
  HANDGRAD_CHECK(activation >= 0 && activation <= 2, kOp,
                 ": activation must be 0 (none), 1 (sigmoid) or 2 (softmax); got ", activation);
  const Sizes sizes = inputs.sizes(), given = targets.sizes();
  bool one_class = given.size() == sizes.size() && sizes[1] != 1 && given[1] == 1;
  for (size_t d = 0; d < sizes.size() && one_class; ++d) one_class = d == 1 || sizes[d] == given[d];
  HANDGRAD_CHECK(one_class || same_shape(targets, inputs), kOp, ": targets must have the shape of inputs, ",
                 shape_text(inputs), ", or for classes one channel; got ", shape_text(targets));
  HANDGRAD_CHECK(!one_class || (is_integer(targets.scalar_type()) && targets.scalar_type() != ScalarType::Bool), kOp,
                 ": targets of one channel are classes and must be integers; got ", dtype_text(targets.scalar_type()));
  HANDGRAD_CHECK(is_integer(targets.scalar_type()) || targets.scalar_type() == inputs.scalar_type(), kOp,
                 ": targets must be integers or have the dtype of inputs, ", dtype_text(inputs.scalar_type()), "; got ",
                 dtype_text(targets.scalar_type()));
  check_device(kOp, "targets", targets, "inputs", inputs);
  // Classes are compared as floats.
  HANDGRAD_CHECK(sizes[1] <= int64_t{1} << 24, kOp, ": inputs must have at most 2^24 channels; got ", sizes[1]);
  int64_t positions = 1;
  for (size_t d = 2; d < sizes.size(); ++d) positions *= sizes[d];
  return {sizes[0], sizes[1], positions, static_cast<Activation>(activation), ignore_index, squared, one_class};
}

inline Tensor empty_sums(const Tensor& inputs) {
  const std::vector<int64_t> sizes{inputs.sizes()[0], inputs.sizes()[1], kSums};
  const Sizes shape(sizes.data(), sizes.size());
  const std::vector<int64_t> strides = contiguous_strides(shape);
  return empty_strided(
      shape, Sizes(strides.data(), strides.size()),
      computed_in(inputs) == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), inputs);
}

// The gradient of the sums, contiguous.
inline Tensor check_grad_output(const Tensor& grad_output, const Tensor& inputs) {
  check_shape(kOp, "grad_output", grad_output, {inputs.sizes()[0], inputs.sizes()[1], kSums}, "(N, C, 3)");
  HANDGRAD_CHECK(grad_output.scalar_type() == computed_in(inputs), kOp, ": grad_output must be ",
                 dtype_text(computed_in(inputs)), ", as the sums; got ", dtype_text(grad_output.scalar_type()));
  check_device(kOp, "grad_output", grad_output, "inputs", inputs);
  return grad_output.is_contiguous() ? grad_output : torch::stable::contiguous(grad_output);
}

// What the passes of the derivatives read and write; what is not there has no value.
struct Tensors {
  ChannelTensor inputs, targets;
  std::optional<ChannelTensor> direction1, direction2, grad_inputs, grad_targets;

  Tensors(const Tensor& inputs, const Tensor& targets) : inputs(inputs), targets(targets) {}
  void set_gradients(bool want_inputs, const Tensor& of_inputs, bool want_targets, const Tensor& of_targets) {
    if (want_inputs) grad_inputs.emplace(of_inputs);
    if (want_targets) grad_targets.emplace(of_targets);
  }
  void set_directions(const std::optional<Tensor>& of_inputs, const std::optional<Tensor>& of_targets) {
    if (of_inputs) check_like(kOp, "grad_grad_inputs", *of_inputs, "inputs", inputs.tensor);
    if (of_targets) check_like(kOp, "grad_grad_targets", *of_targets, "targets", targets.tensor);
    if (of_inputs) direction1.emplace(*of_inputs);
    // Integers have no directions.
    if (of_targets && is_floating(targets.tensor.scalar_type())) direction2.emplace(*of_targets);
  }
};

template <class C>
StoredView<const C, 3> view_if(const std::optional<ChannelTensor>& tensor) {
  return tensor ? stored_view<C>(*tensor) : StoredView<const C, 3>{};
}
template <class C>
StoredView<C, 3> mutable_view_if(const std::optional<ChannelTensor>& tensor) {
  return tensor ? mutable_stored_view<C>(*tensor) : StoredView<C, 3>{};
}

// A gradient is asked of floating-point targets only.
inline bool is_differentiable(const Tensor& targets) { return is_floating(targets.scalar_type()); }

// The host entries; Loops has, for one device, sums(problem, tensors, result), gradients(problem, tensors, grad_output)
// and second(problem, tensors, grad_output, result of the sums or null).
template <class Loops>
struct Entries {
  static Tensor forward(const Tensor& inputs,   // [N, C, *]
                        const Tensor& targets,  // that of inputs, or [N, 1, *]
                        int64_t activation, const std::optional<int64_t>& ignore_index, bool squared) {
    const Problem problem = check_arguments(inputs, targets, activation, ignore_index, squared);
    const Tensor sums = empty_sums(inputs);
    Loops::sums(problem, Tensors(inputs, targets), sums);
    return sums;
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad_output,  // [N, C, 3]
                                             const Tensor& inputs,       // [N, C, *]
                                             const Tensor& targets,      // that of inputs, or [N, 1, *]
                                             int64_t activation, const std::optional<int64_t>& ignore_index,
                                             bool squared, const std::vector<bool>& output_mask) {
    const Problem problem = check_arguments(inputs, targets, activation, ignore_index, squared);
    const Tensor dense_grad = check_grad_output(grad_output, inputs);
    std::array<bool, 2> need = as_output_mask<2>(kOp, output_mask);
    need[1] = need[1] && is_differentiable(targets);
    const Tensor grad_inputs = empty_gradient(need[0], inputs);
    const Tensor grad_targets = empty_gradient_beside(need[1], targets, inputs);
    if (!need[0] && !need[1]) return {grad_inputs, grad_targets};
    Tensors tensors(inputs, targets);
    tensors.set_gradients(need[0], grad_inputs, need[1], grad_targets);
    Loops::gradients(problem, tensors, dense_grad);
    return {grad_inputs, grad_targets};
  }

  static std::tuple<Tensor, Tensor, Tensor> double_backward(const std::optional<Tensor>& grad_grad_inputs,
                                                            const std::optional<Tensor>& grad_grad_targets,
                                                            const Tensor& grad_output,  // [N, C, 3]
                                                            const Tensor& inputs,       // [N, C, *]
                                                            const Tensor& targets,      // that of inputs, or [N, 1, *]
                                                            int64_t activation,
                                                            const std::optional<int64_t>& ignore_index, bool squared,
                                                            const std::vector<bool>& output_mask) {
    const Problem problem = check_arguments(inputs, targets, activation, ignore_index, squared);
    const Tensor dense_grad = check_grad_output(grad_output, inputs);
    std::array<bool, 3> need = as_output_mask<3>(kOp, output_mask);
    need[2] = need[2] && is_differentiable(targets);
    const Tensor sums = need[0] ? empty_sums(inputs) : empty_placeholder(grad_output);
    const Tensor grad_inputs = empty_gradient(need[1], inputs);
    const Tensor grad_targets = empty_gradient_beside(need[2], targets, inputs);
    if (!need[0] && !need[1] && !need[2]) return {sums, grad_inputs, grad_targets};
    Tensors tensors(inputs, targets);
    tensors.set_directions(grad_grad_inputs, grad_grad_targets);
    tensors.set_gradients(need[1], grad_inputs, need[2], grad_targets);
    Loops::second(problem, tensors, dense_grad, need[0] ? &sums : nullptr);
    return {sums, grad_inputs, grad_targets};
  }
};

}  // namespace handgrad::overlap_sums
