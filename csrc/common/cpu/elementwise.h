// Loops over the elements of tensors of one shape, whatever their strides and dtype.
//
// A kernel written with this sees only short, contiguous runs of float or double: `block(count, in..., out...)`.
// Strides, half types and the split over threads are dealt with around it, so the one loop that knows the formula is
// compiled once per compute type and always vectorised. Where memory already is such a run, the kernel works in place
// and nothing is copied; otherwise runs go through buffers small enough to stay in the first-level cache.
#pragma once

#include <algorithm>
#include <array>
#include <numeric>

#include "cpu/parallel.h"
#include "math/convert.h"

namespace handgrad {

// Elements per run: long enough to hide the cost of a call, short enough for a dozen buffers in 32 KiB.
inline constexpr int64_t kBlock = 512;
// Smallest piece of work that a thread takes, or that one partial sum covers.
inline constexpr int64_t kChunk = 8 * kBlock;

// The shared shape of N operands, dimensions merged where all operands allow it and ordered as the first operand lies
// in memory; element i of every operand is found by walking it.
template <int N>
class ElementLoop {
 public:
  // Operands are given by their strides; a null pointer is one element for all (stride 0 throughout).
  ElementLoop(Sizes shape, const std::array<const int64_t*, N>& operand_strides) {
    numel_ = 1;
    for (size_t d = 0; d < shape.size(); ++d) numel_ *= shape[d];
    if (linear(shape, operand_strides)) return;

    std::vector<size_t> order;
    for (size_t d = 0; d < shape.size(); ++d) {
      if (shape[d] != 1) order.push_back(d);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return operand_strides[0][a] > operand_strides[0][b]; });
    for (const size_t d : order) {
      Dimension dimension{shape[d], {}};
      for (int k = 0; k < N; ++k) dimension.strides[k] = operand_strides[k] ? operand_strides[k][d] : 0;
      // A dimension that continues the one outside it, for every operand, is the same dimension.
      bool continues = !dimensions_.empty();
      for (int k = 0; continues && k < N; ++k) {
        continues = dimensions_.back().strides[k] == dimension.strides[k] * dimension.size;
      }
      if (continues) {
        dimensions_.back().size *= dimension.size;
        dimensions_.back().strides = dimension.strides;
      } else {
        dimensions_.push_back(dimension);
      }
    }
    if (dimensions_.size() <= 1) {
      if (!dimensions_.empty()) inner_ = dimensions_.back().strides;
      dimensions_.clear();
    } else {
      inner_ = dimensions_.back().strides;
    }
  }

  int64_t numel() const { return numel_; }
  // The whole loop is one dimension; `stride(k)` is then operand k's.
  bool is_linear() const { return dimensions_.empty(); }
  int64_t stride(int operand) const { return inner_[operand]; }

  // The dimensions that are left, outermost first; a linear loop has one.
  int dimensions() const { return is_linear() ? 1 : static_cast<int>(dimensions_.size()); }
  int64_t size(int dimension) const { return is_linear() ? numel_ : dimensions_[dimension].size; }
  int64_t stride(int dimension, int operand) const {
    return is_linear() ? inner_[operand] : dimensions_[dimension].strides[operand];
  }
  // How far from its first element an operand reaches.
  int64_t largest_offset() const {
    int64_t largest = 0;
    for (int k = 0; k < N; ++k) {
      int64_t offset = 0;
      for (int d = 0; d < dimensions(); ++d) offset += (size(d) - 1) * stride(d, k);
      largest = std::max(largest, offset);
    }
    return largest;
  }

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

 private:
  struct Dimension {
    int64_t size;
    std::array<int64_t, N> strides;
  };

  // The common case, decided without sorting or allocating: every operand lies in memory in the same dense order, or is
  // one element for all.
  bool linear(Sizes shape, const std::array<const int64_t*, N>& operand_strides) {
    for (int k = 0; k < N; ++k) {
      int64_t step = 1;
      bool dense = operand_strides[k] != nullptr, constant = true;
      for (size_t d = shape.size(); d-- > 0 && operand_strides[k];) {
        if (shape[d] == 1) continue;
        dense = dense && operand_strides[k][d] == step;
        constant = constant && operand_strides[k][d] == 0;
        step *= shape[d];
      }
      if (!dense && !constant) return false;
      inner_[k] = dense ? 1 : 0;
    }
    return true;
  }

  int64_t numel_ = 0;
  std::array<int64_t, N> inner_{};
  std::vector<Dimension> dimensions_;
};

// An operand that is read: a tensor, or one value for all elements.
template <class T>
struct Input {
  using Element = T;
  const T* data;
  const int64_t* strides;

  explicit Input(const Tensor& tensor) : data(tensor.const_data_ptr<T>()), strides(tensor.strides().data()) {}
  static Input scalar(const Tensor& tensor) {
    Input input(tensor);
    input.strides = nullptr;
    return input;
  }

  template <int N>
  const Compute<T>* open(const ElementLoop<N>& loop, int operand, int64_t begin, int64_t count,
                         Compute<T>* buffer) const {
    if constexpr (std::is_same_v<T, Compute<T>>) {
      if (loop.is_linear() && loop.stride(operand) == 1) return data + begin;
    }
    const int64_t stride = loop.stride(operand);
    loop.for_each_run(operand, begin, count, [&](int64_t offset, int64_t length, int64_t at) {
      load_run(data + offset, stride, length, buffer + at);
    });
    return buffer;
  }
  template <int N>
  void close(const ElementLoop<N>&, int, int64_t, int64_t, const Compute<T>*) const {}
};

// An operand that is written.
template <class T>
struct Output {
  using Element = T;
  T* data;
  const int64_t* strides;

  explicit Output(const Tensor& tensor) : data(tensor.mutable_data_ptr<T>()), strides(tensor.strides().data()) {}

  template <int N>
  Compute<T>* open(const ElementLoop<N>& loop, int operand, int64_t begin, int64_t, Compute<T>* buffer) const {
    if constexpr (std::is_same_v<T, Compute<T>>) {
      if (loop.is_linear() && loop.stride(operand) == 1) return data + begin;
    }
    return buffer;
  }
  template <int N>
  void close(const ElementLoop<N>& loop, int operand, int64_t begin, int64_t count, const Compute<T>* block) const {
    if constexpr (std::is_same_v<T, Compute<T>>) {
      if (block == data + begin && loop.is_linear() && loop.stride(operand) == 1) return;
    }
    const int64_t stride = loop.stride(operand);
    loop.for_each_run(operand, begin, count, [&](int64_t offset, int64_t length, int64_t at) {
      store_run(block + at, length, data + offset, stride);
    });
  }
};

namespace detail {

// Runs block(count, pointers...) for the elements [begin, end) and adds up what it returns, if it returns anything.
template <class C, class Block, int N, size_t... K, class... Operands>
double run_blocks(const ElementLoop<N>& loop, int64_t begin, int64_t end, const Block& block, std::index_sequence<K...>,
                  const Operands&... operands) {
  alignas(64) C buffers[N][kBlock];
  double total = 0;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t count = std::min(kBlock, end - at);
    auto pointers = std::make_tuple(operands.open(loop, static_cast<int>(K), at, count, buffers[K])...);
    if constexpr (std::is_void_v<decltype(block(count, std::get<K>(pointers)...))>) {
      block(count, std::get<K>(pointers)...);
    } else {
      total += static_cast<double>(block(count, std::get<K>(pointers)...));
    }
    (operands.close(loop, static_cast<int>(K), at, count, std::get<K>(pointers)), ...);
  }
  return total;
}

}  // namespace detail

// block(count, pointers...) over all elements of the operands, which share `shape`. Pointers come in the order of the
// operands: const float* (or double*) for an Input, float* for an Output; `count` is at most kBlock.
template <class First, class... Rest, class Block>
void for_each_block(Sizes shape, const Block& block, const First& first, const Rest&... rest) {
  constexpr int N = 1 + sizeof...(Rest);
  const ElementLoop<N> loop(shape, {first.strides, rest.strides...});
  const int64_t chunks = (loop.numel() + kChunk - 1) / kChunk;
  parallel_for(chunks, kChunk, [&](int64_t begin, int64_t end) {
    detail::run_blocks<Compute<typename First::Element>>(loop, begin * kChunk, std::min(loop.numel(), end * kChunk),
                                                         block, std::make_index_sequence<N>(), first, rest...);
  });
}

// The same, adding up what `block` returns; bit for bit the same for any number of threads.
template <class First, class... Rest, class Block>
double sum_over_blocks(Sizes shape, const Block& block, const First& first, const Rest&... rest) {
  constexpr int N = 1 + sizeof...(Rest);
  const ElementLoop<N> loop(shape, {first.strides, rest.strides...});
  return parallel_sum(loop.numel(), kChunk, [&](int64_t begin, int64_t end) {
    return detail::run_blocks<Compute<typename First::Element>>(loop, begin, end, block, std::make_index_sequence<N>(),
                                                                first, rest...);
  });
}

}  // namespace handgrad
