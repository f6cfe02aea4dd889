// The operands of a loss that sorts the errors of a class: (groups, samples, classes, positions…), where all positions
// of all samples of a group are sorted together. For both devices; the loops themselves are cpu/sorted.h's and
// cuda/sorted.cuh's.
#pragma once

#include <limits>
#include <optional>

#include "abi/channels.h"
#include "math/stored.h"

namespace handgrad {

// A tensor of (groups, samples, classes, positions…), or one without classes, whose positions are a fixed stride apart;
// one whose positions lie otherwise is copied.
struct GroupedTensor {
  Tensor tensor;
  int64_t of_group, of_sample, of_class, of_position;  // strides

  GroupedTensor(const Tensor& any, bool has_classes) : tensor(any) {
    const size_t first = has_classes ? 3 : 2;
    if (!stride_of_positions(tensor, first)) tensor = torch::stable::contiguous(any);
    const Sizes strides = tensor.strides();
    of_group = strides[0], of_sample = strides[1], of_class = has_classes ? strides[2] : 0;
    of_position = *stride_of_positions(tensor, first);
  }

  template <class C>
  StoredView<const C, 4> stored() const {
    return {{static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor.scalar_type()},
            {of_group, of_sample, of_class, of_position}};
  }
  template <class C>
  StoredView<C, 4> mutable_stored() const {
    return {{static_cast<unsigned char*>(tensor.mutable_data_ptr()), tensor.scalar_type()},
            {of_group, of_sample, of_class, of_position}};
  }
};

// What of a call is the same for all elements.
struct SortedProblem {
  int64_t groups, samples, classes, positions;
  // The class number that is class 0, what lies below it being the background of all classes.
  int64_t first_class;
  bool softmax, skip_absent;
  std::optional<int64_t> ignore_index;

  // How many errors are sorted together.
  int64_t members() const { return samples * positions; }
  int64_t numel() const { return groups * classes * members(); }
};

// What a loss of sorted errors reads and writes; what is not asked for is left out.
struct SortedOperands {
  SortedProblem problem;
  GroupedTensor inputs, targets;  // [G, S, C, P], [G, S, P]
  std::optional<Tensor> weight;   // [C]
  std::optional<GroupedTensor> direction;
  std::optional<Tensor> grad_output, losses;  // [G]
  std::optional<GroupedTensor> grad_inputs;
};

// The class of a position that does not count, among class numbers from -1 on.
inline constexpr int32_t kIgnoredClass = std::numeric_limits<int32_t>::min();
// And of one whose target is no class.
inline constexpr int32_t kNoClass = kIgnoredClass + 1;

HANDGRAD_MATH int32_t class_of_target(int64_t target, int64_t classes, int64_t first_class, bool ignores,
                                      int64_t ignored) {
  if (ignores && target == ignored) return kIgnoredClass;
  return target < 0 || target >= classes + first_class ? kNoClass : static_cast<int32_t>(target - first_class);
}

}  // namespace handgrad
