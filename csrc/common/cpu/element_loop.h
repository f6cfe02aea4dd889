// The operands of a loop over elements, and the walk over them: tensors of one shape, whatever their strides and dtype.
// For both devices; the loops themselves are elementwise.h's and elementwise.cuh's.
#pragma once

#include <algorithm>
#include <array>

#include "abi/tensor.h"

namespace handgrad {

inline constexpr int kMaxOperands = 8;

// What a loop reads or writes: its first element, its dtype, its strides.
struct Operand {
  void* data = nullptr;
  const int64_t* strides = nullptr;  // null: one element for all
  ScalarType dtype = ScalarType::Undefined;

  bool operator==(const Operand&) const = default;
};

// An operand that is read: a tensor, or one value for all elements.
struct Input : Operand {
  // What a value for all elements is multiplied by.
  double factor = 1;

  explicit Input(const Tensor& tensor)
      : Operand{const_cast<void*>(tensor.const_data_ptr()), tensor.strides().data(), tensor.scalar_type()} {}
  static Input scalar(const Tensor& tensor, double divisor = 1) {
    Input input(tensor);
    input.strides = nullptr;
    input.factor = 1 / divisor;
    return input;
  }
  // 0 for all elements, read from nowhere.
  static Input zero() { return Input(); }

 private:
  Input() = default;
};

// What becomes of a result: a tensor of it, its sum over all elements, or nothing.
struct Output : Operand {
  const Tensor* total = nullptr;
  double divisor = 1;

  explicit Output(const Tensor& tensor)
      : Operand{tensor.mutable_data_ptr(), tensor.strides().data(), tensor.scalar_type()} {}
  // The sum, divided by `divisor`, goes to `total`, a tensor of one element. Of a loop's outputs only the first can be
  // summed.
  static Output sum(const Tensor& total, double divisor) {
    Output output;
    output.total = &total;
    output.divisor = divisor;
    return output;
  }
  // For what nobody asked for.
  static Output nowhere() { return Output(); }

 private:
  Output() = default;
};

// Whether a body of one element is worth less code than others, for less speed.
template <class Body>
inline constexpr bool kIsRare = false;

// The shared shape of up to kMaxOperands operands, dimensions merged where all operands allow it and ordered as the
// first operand lies in memory; element i of every operand is found by walking it.
class ElementLoop {
 public:
  using Strides = std::array<int64_t, kMaxOperands>;
  struct Dimension {
    int64_t size;
    Strides strides;
  };

  ElementLoop(Sizes shape, const Operand* operands, int count) : operands_(count) {
    for (size_t d = 0; d < shape.size(); ++d) numel_ *= shape[d];
    if (!linear(shape, operands)) merge(shape, operands);
  }

  int64_t numel() const { return numel_; }
  // The whole loop is one dimension; `stride(k)` is then operand k's.
  bool is_linear() const { return dimensions_.empty(); }
  int64_t stride(int operand) const { return inner_[operand]; }

  // The dimensions that are left, outermost first; a linear loop has one.
  int dimensions() const { return is_linear() ? 1 : static_cast<int>(dimensions_.size()); }
  Dimension dimension(int d) const { return is_linear() ? Dimension{numel_, inner_} : dimensions_[d]; }

  // run(offset into the operand, how many elements, position in the block) for the elements [begin, begin + count).
  template <class Run>
  void for_each_run(int operand, int64_t begin, int64_t count, const Run& run) const {
    if (is_linear()) {
      run(begin * inner_[operand], count, int64_t{0});
      return;
    }
    for (int64_t done = 0; done < count;) {
      int64_t rest = begin + done, offset = 0, inside = 0;
      for (size_t d = dimensions_.size(); d-- > 0;) {
        const int64_t index = rest % dimensions_[d].size;
        rest /= dimensions_[d].size;
        offset += index * dimensions_[d].strides[operand];
        if (d + 1 == dimensions_.size()) inside = index;
      }
      const int64_t length = std::min(count - done, dimensions_.back().size - inside);
      run(offset, length, done);
      done += length;
    }
  }

  // body(loop, offsets) for pieces of this loop, in a fixed order, of which each has fewer than `limit` elements and
  // reaches less far than that in every operand, which is moved by its offset. For loops in indices of fewer bits.
  template <class Body>
  void for_each_piece(int64_t limit, const Body& body, const Strides& offsets = {}) const {
    if (largest_index() < limit) {
      body(*this, offsets);
      return;
    }
    int largest = 0;
    for (int d = 1; d < dimensions(); ++d) {
      if (dimension(d).size > dimension(largest).size) largest = d;
    }
    const Dimension whole = dimension(largest);
    const int64_t half = whole.size / 2;
    Strides behind = offsets;
    for (int k = 0; k < operands_; ++k) behind[k] += half * whole.strides[k];
    with_size(largest, half).for_each_piece(limit, body, offsets);
    with_size(largest, whole.size - half).for_each_piece(limit, body, behind);
  }

 private:
  // The common case, decided without sorting or allocating: every operand lies in memory in the same dense order, or is
  // one element for all.
  bool linear(Sizes shape, const Operand* operands) {
    for (int k = 0; k < operands_; ++k) {
      const int64_t* strides = operands[k].strides;
      int64_t step = 1;
      bool dense = strides != nullptr, constant = true;
      for (size_t d = shape.size(); d-- > 0 && strides;) {
        if (shape[d] == 1) continue;
        dense = dense && strides[d] == step;
        constant = constant && strides[d] == 0;
        step *= shape[d];
      }
      if (!dense && !constant) return false;
      inner_[k] = dense ? 1 : 0;
    }
    return true;
  }

  void merge(Sizes shape, const Operand* operands) {
    // Dimensions by decreasing stride of the first operand; equal ones keep their order.
    std::vector<size_t> order;
    for (size_t d = 0; d < shape.size(); ++d) {
      if (shape[d] == 1) continue;
      size_t index = order.size();
      const int64_t* first = operands[0].strides;
      while (first && index > 0 && first[order[index - 1]] < first[d]) --index;
      order.insert(order.begin() + static_cast<int64_t>(index), d);
    }
    for (const size_t d : order) {
      Dimension dimension{shape[d], {}};
      for (int k = 0; k < operands_; ++k) dimension.strides[k] = operands[k].strides ? operands[k].strides[d] : 0;
      // A dimension that continues the one outside it, for every operand, is the same dimension.
      bool continues = !dimensions_.empty();
      for (int k = 0; continues && k < operands_; ++k) {
        continues = dimensions_.back().strides[k] == dimension.strides[k] * dimension.size;
      }
      if (continues) {
        dimensions_.back().size *= dimension.size;
        dimensions_.back().strides = dimension.strides;
      } else {
        dimensions_.push_back(dimension);
      }
    }
    if (!dimensions_.empty()) inner_ = dimensions_.back().strides;
    if (dimensions_.size() == 1) dimensions_.clear();
  }

  ElementLoop with_size(int dimension, int64_t size) const {
    ElementLoop piece = *this;
    piece.numel_ = numel_ / this->dimension(dimension).size * size;
    if (!is_linear()) piece.dimensions_[dimension].size = size;
    return piece;
  }

  int64_t largest_index() const {
    int64_t largest = numel_ - 1;
    for (int k = 0; k < operands_; ++k) {
      int64_t offset = 0;
      for (int d = 0; d < dimensions(); ++d) offset += (dimension(d).size - 1) * dimension(d).strides[k];
      largest = std::max(largest, offset);
    }
    return largest;
  }

  int operands_;
  int64_t numel_ = 1;
  Strides inner_{};
  std::vector<Dimension> dimensions_;
};

}  // namespace handgrad
