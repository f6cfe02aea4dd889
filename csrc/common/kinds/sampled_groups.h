// Ops in which groups of channels look at points of their own (math/sampled_group.h): all but what says where. An op
// checks its tensors, says how they are seen as those of SampledTensors, and leaves the passes to a device:
//
//   SampledGroupsOnCpu::forward(geometry, tensors), ::backward, ::double_backward; the same of SampledGroupsOnCuda
//
// In order of appearance: Reshaped, a tensor with other dimensions; SampledTensors; SampledResults.
#pragma once

#include "abi/check.h"
#include "abi/dtype.h"
#include "abi/output_mask.h"
#include "math/sampled_group.h"
#include "math/stored.h"

namespace handgrad {
namespace sampled_groups {

// A tensor as kernels see it, which may be with other dimensions; without data where it is None or not asked for.
template <int Rank>
struct Reshaped {
  std::optional<Tensor> tensor;
  std::array<int64_t, Rank> strides{};
  // Elements before the first.
  int64_t begin = 0;

  Reshaped() = default;
  Reshaped(const Tensor& any) : tensor(any) {
    for (size_t d = 0; d < Rank; ++d) strides[d] = any.strides()[d];
  }
  Reshaped(const std::optional<Tensor>& any) : Reshaped(any ? Reshaped(*any) : Reshaped()) {}
  Reshaped(const Tensor& any, const std::array<int64_t, Rank>& strides, int64_t begin = 0)
      : tensor(any), strides(strides), begin(begin) {}

  explicit operator bool() const { return tensor.has_value(); }

  template <class T>
  View<const T, Rank> view() const {
    return with_strides(View<const T, Rank>{tensor ? tensor->const_data_ptr<T>() + begin : nullptr, {}});
  }
  template <class T>
  View<T, Rank> mutable_view() const {
    return with_strides(View<T, Rank>{tensor ? tensor->mutable_data_ptr<T>() + begin : nullptr, {}});
  }
  template <class C>
  StoredView<const C, Rank> stored_view() const {
    if (!tensor) return {};
    const Stored<const C> first{static_cast<const unsigned char*>(tensor->const_data_ptr()), tensor->scalar_type()};
    return with_strides(StoredView<const C, Rank>{first + begin, {}});
  }
  template <class C>
  StoredView<C, Rank> mutable_stored_view() const {
    if (!tensor) return {};
    const Stored<C> first{static_cast<unsigned char*>(tensor->mutable_data_ptr()), tensor->scalar_type()};
    return with_strides(StoredView<C, Rank>{first + begin, {}});
  }

 private:
  template <class Any>
  Any with_strides(Any view) const {
    for (size_t d = 0; d < Rank; ++d) view.strides[d] = strides[d];
    return view;
  }
};

// The tensors of a pass. v: what the double backward differentiates along.
struct SampledTensors {
  Reshaped<4> value, v_value;              // [B, S, groups, channels]
  Reshaped<6> coordinates, v_coordinates;  // [B, Q, groups, levels, points, 2], x before y
  Reshaped<5> factors, v_factors;          // [B, Q, groups, levels, points]
  Reshaped<3> grad_output;                 // [B, Q, groups * channels]
  // Results; of the value and of the points contiguous, but for gaps between groups.
  Reshaped<3> output;            // [B, Q, groups * channels]; in the double backward, its change
  Reshaped<4> grad_value;        // [B, S, groups, channels]
  Reshaped<6> grad_coordinates;  // [B, Q, groups, levels, points, 2]
  Reshaped<5> grad_factors;      // [B, Q, groups, levels, points]

  bool wants_sums() const { return grad_coordinates || grad_factors; }
};

// Coordinates and factors are in the type that the value is computed in.
inline ScalarType compute_dtype(const Tensor& value) {
  return value.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline void check_computed(const char* op, const char* name, const Tensor& tensor, const char* value_name,
                           const Tensor& value) {
  const ScalarType wanted = compute_dtype(value);
  HANDGRAD_CHECK(tensor.scalar_type() == wanted, op, ": ", name, " must have the type that ", value_name,
                 " is computed in, ", dtype_text(wanted), "; got ", dtype_text(tensor.scalar_type()));
  check_device(op, name, tensor, value_name, value);
}

// The results of a backward, contiguous, and of a double backward.
struct SampledResults {
  bool wants_output, wants_value, wants_coordinates, wants_factors;
  Tensor output, value, coordinates, factors;

  SampledResults(Sizes output_sizes, const Tensor& of_value, const Tensor& of_coordinates, const Tensor& of_factors,
                 const std::array<bool, 4>& wanted)
      : wants_output(wanted[0]),
        wants_value(wanted[1]),
        wants_coordinates(wanted[2]),
        wants_factors(wanted[3]),
        output(wants_output ? empty_contiguous(output_sizes, of_value) : empty_placeholder(of_value)),
        value(gradient(wants_value, of_value)),
        coordinates(gradient(wants_coordinates, of_coordinates)),
        factors(gradient(wants_factors, of_factors)) {}

  // In a double backward, of directions that may be None. Nothing is to be done for what is zero whatever the numbers
  // are: everything without a direction, and the gradient of the value, which does not depend on the value, without one
  // of the points.
  void clear_what_stands_still(bool value_moves, bool points_move) {
    if (!points_move) clear(wants_value, value);
    if (value_moves || points_move) return;
    clear(wants_output, output);
    clear(wants_coordinates, coordinates);
    clear(wants_factors, factors);
  }

  bool is_done() const { return !wants_output && !wants_value && !wants_coordinates && !wants_factors; }

 private:
  static Tensor gradient(bool wanted, const Tensor& tensor) {
    return wanted ? empty_contiguous(tensor.sizes(), tensor) : empty_placeholder(tensor);
  }
  static void clear(bool& wanted, const Tensor& result) {
    if (wanted) fill_zero(result);
    wanted = false;
  }
};

}  // namespace sampled_groups
}  // namespace handgrad
