// Embeddings and their gradients as losses of all pairs multiply them: dense rows of the type that is computed in.
#pragma once

#include <algorithm>

#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/stored.h"

namespace handgrad {

// One matrix of a batch in dense rows of C: in place where it lies so, otherwise a copy.
template <class C>
class DenseRows {
 public:
  DenseRows() = default;
  DenseRows(const Tensor& tensor, int64_t b) : features_(tensor.sizes()[2]), stride_(tensor.strides()[1]) {
    const auto from = stored_view<C, 3>(tensor);
    const int64_t rows = tensor.sizes()[1];
    if (from.first.is_computed_in() && tensor.strides()[2] == 1 && (stride_ >= features_ || rows < 2)) {
      data_ = from.at(b, 0, 0).in_place();
      stride_ = std::max(stride_, features_);
      return;
    }
    stride_ = features_;
    copy_.resize(static_cast<size_t>(rows * features_));
    data_ = copy_.data();
    C* const to = copy_.data();
    parallel_for(rows, features_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) load_run(from.at(b, i, 0), from.strides[2], features_, to + i * features_);
    });
  }

  // Rows [first, first + count), or transposed.
  Tensor rows(int64_t first, int64_t count) const {
    return cpu_matrix(data_ + first * stride_, count, features_, stride_, 1);
  }
  Tensor transposed(int64_t first, int64_t count) const {
    return cpu_matrix(data_ + first * stride_, features_, count, 1, stride_);
  }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  const C* data_ = nullptr;
  int64_t features_ = 0, stride_ = 0;
  ScratchVector<C> copy_;
};

// The gradient of one matrix of a batch: where it is stored, if it is of C, otherwise in scratch memory first.
template <class C>
class DenseGradient {
 public:
  DenseGradient(const std::optional<Tensor>& gradient, int64_t b) {
    if (!gradient) return;
    const int64_t rows = gradient->sizes()[1];
    features_ = gradient->sizes()[2];
    to_ = mutable_stored_view<C, 3>(*gradient).at(b, 0, 0);
    if (!to_.is_computed_in()) scratch_.resize(static_cast<size_t>(rows * features_));
    data_ = to_.is_computed_in() ? to_.in_place() : scratch_.data();
    count_ = rows * features_;
  }
  Tensor rows(int64_t first, int64_t count) const {
    return cpu_matrix(data_ + first * features_, count, features_, features_, 1);
  }
  void clear() const { std::fill(data_, data_ + count_, C(0)); }
  void store() const {
    if (data_ && !to_.is_computed_in()) store_run(data_, count_, to_, 1);
  }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  Stored<C> to_;
  C* data_ = nullptr;
  int64_t features_ = 0, count_ = 0;
  ScratchVector<C> scratch_;
};

}  // namespace handgrad
