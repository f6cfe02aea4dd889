// Kernels of losses of sorted errors on CUDA devices. A thread takes a position with all of its classes, or a block
// takes a chunk of the sorted errors of a class. What is larger than a chunk's errors is known from the counts of the
// chunks before it; sums of chunks are added in order, in double: the same bits on every run.
//
// In order of appearance: SortedViews, what they read; predictions of a position; the kernels, in the order in which
// they run.
#pragma once

#include "cpu/sorted_operands.h"
#include "cuda/access.cuh"
#include "cuda/in_order.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"
#include "math/lovasz.h"

namespace handgrad {

inline constexpr int kSortedThreads = 256;
// Sorted errors of a chunk.
inline constexpr int64_t kSortedChunk = 2048;

// Arrays of a pass: `members` are all positions of a group, a row is a class of a group.
template <class C>
struct SortedViews {
  int64_t groups, members, positions, chunks, ignored;
  int32_t classes, first_class;
  bool softmax, skip_absent, ignores;
  StoredView<const C, 4> inputs, direction;
  View<const int64_t, 3> targets;
  StoredView<C, 4> grad_inputs;
  const C *weight, *grad_output;
  const C* sorted;           // [rows, members], by decreasing value
  const int64_t* order;      // [rows, members]
  C *errors, *weights;       // [rows, members]
  int32_t* found;            // [groups, members]: the class of each position
  int64_t *counts, *totals;  // [rows, chunks], [rows]: of foreground
  double *scale, *partial;   // [rows]; partial sums

  __device__ int64_t row(int64_t g, int64_t c) const { return g * classes + c; }
};

// ---- a position -----------------------------------------------------------------------------------------------------

template <class C>
struct PositionOf {
  int64_t g, s, p;

  __device__ PositionOf(const SortedViews<C>& views, int64_t g, int64_t member)
      : g(g), s(member / views.positions), p(member % views.positions) {}
};

// The predictions of a position, one class after the other.
template <class C>
struct Predictions {
  Stored<const C> first;
  int64_t stride;
  C largest, scale;
  bool softmax;

  __device__ Predictions(const SortedViews<C>& views, const PositionOf<C>& position)
      : first(views.inputs.at(position.g, position.s, 0, position.p)),
        stride(views.inputs.strides[2]),
        largest(-std::numeric_limits<C>::infinity()),
        scale(0),
        softmax(views.softmax) {
    if (!softmax) return;
    for (int32_t c = 0; c < views.classes; ++c) {
      const C x = read_constant(first + c * stride);
      largest = x > largest ? x : largest;
    }
    for (int32_t c = 0; c < views.classes; ++c) scale += exp(read_constant(first + c * stride) - largest);
    scale = 1 / scale;
  }
  __device__ C operator()(int32_t c) const {
    const C x = read_constant(first + c * stride);
    return softmax ? exp(x - largest) * scale : x;
  }
};

// ---- kernels --------------------------------------------------------------------------------------------------------

// The class of each position, and the errors of all classes; what is not above 0 is 0.
template <class C, class Formula>
__global__ void __launch_bounds__(kSortedThreads, kMinBlocks) sorted_errors_kernel(SortedViews<C> views) {
  HANDGRAD_LAUNCH_BOUNDS(kSortedThreads);
  const int64_t i = int64_t{blockIdx.x} * kSortedThreads + threadIdx.x;
  if (i >= views.groups * views.members) return;
  const int64_t g = i / views.members, member = i % views.members;
  const PositionOf<C> position(views, g, member);
  const int64_t target = load_constant(views.targets.at(g, position.s, position.p));
  const int32_t found = class_of_target(target, views.classes, views.first_class, views.ignores, views.ignored);
  store(views.found + i, found);
  const Predictions<C> predictions(views, position);
  for (int32_t c = 0; c < views.classes; ++c) {
    C error = Formula::error(predictions(c), found == c);
    if (error <= 0 || found == kIgnoredClass) error = 0;
    if (found == kNoClass) error = std::numeric_limits<C>::quiet_NaN();
    store(views.errors + views.row(g, c) * views.members + member, error);
  }
}

// How many of each chunk of sorted errors are of foreground.
template <class C>
__global__ void __launch_bounds__(kSortedThreads, kMinBlocks) sorted_counts_kernel(SortedViews<C> views) {
  HANDGRAD_LAUNCH_BOUNDS(kSortedThreads);
  const int64_t row = blockIdx.x / views.chunks, first = blockIdx.x % views.chunks * kSortedChunk;
  const int64_t g = row / views.classes;
  const int32_t c = static_cast<int32_t>(row % views.classes);
  const int64_t end = first + kSortedChunk < views.members ? first + kSortedChunk : views.members;
  double count = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kSortedThreads) {
    const int64_t member = load_constant(views.order + row * views.members + i);
    count += load(views.found + g * views.members + member) == c;
  }
  count = block_sum<kSortedThreads>(count);
  if (threadIdx.x == 0) store(views.counts + blockIdx.x, static_cast<int64_t>(count));
}

// A block for each group: counts become those of all chunks before, and classes get what they count in the mean.
template <class C>
__global__ void __launch_bounds__(kSortedThreads, kMinBlocks) sorted_scale_kernel(SortedViews<C> views) {
  HANDGRAD_LAUNCH_BOUNDS(kSortedThreads);
  const int64_t g = blockIdx.x;
  double mine = 0;
  for (int32_t c = threadIdx.x; c < views.classes; c += kSortedThreads) {
    const int64_t row = views.row(g, c);
    int64_t before = 0;
    for (int64_t k = 0; k < views.chunks; ++k) {
      const int64_t count = load(views.counts + row * views.chunks + k);
      store(views.counts + row * views.chunks + k, before);
      before += count;
    }
    store(views.totals + row, before);
    const double weight = views.weight ? static_cast<double>(load_constant(views.weight + c)) : 1;
    const double scale = views.skip_absent && before == 0 ? 0 : weight;
    store(views.scale + row, scale);
    mine += scale;
  }
  const double sum = block_sum<kSortedThreads>(mine);
  __shared__ double total;
  if (threadIdx.x == 0) total = sum;
  __syncthreads();
  for (int32_t c = threadIdx.x; c < views.classes; c += kSortedThreads) {
    const int64_t row = views.row(g, c);
    if (total != 0) store(views.scale + row, load(views.scale + row) / total);
  }
}

// Weighs the errors of a chunk: their sum, or the weight of each where its position is.
template <class C, bool Summed>
__global__ void __launch_bounds__(kSortedThreads, kMinBlocks) sorted_weights_kernel(SortedViews<C> views) {
  HANDGRAD_LAUNCH_BOUNDS(kSortedThreads);
  const int64_t row = blockIdx.x / views.chunks, first = blockIdx.x % views.chunks * kSortedChunk;
  const int64_t g = row / views.classes, all = load(views.totals + row);
  const int32_t c = static_cast<int32_t>(row % views.classes);
  const double scale = load(views.scale + row);
  __shared__ InOrder<kSortedThreads> in_order;
  int64_t before = load(views.counts + blockIdx.x);
  double sum = 0;
  for (int64_t tile = first; tile < first + kSortedChunk && tile < views.members; tile += kSortedThreads) {
    const int64_t i = tile + threadIdx.x, at = row * views.members + i;
    const bool inside = i < views.members;
    const int64_t member = inside ? load_constant(views.order + at) : 0;
    const bool foreground = inside && load(views.found + g * views.members + member) == c;
    int rank;
    const int count = in_order.count(foreground, rank);
    if (inside) {
      const int64_t larger = before + rank;
      const C error = load_constant(views.sorted + at);
      const double weight = error == 0 ? 0 : lovasz_weight(foreground, larger, i - larger, all);
      if constexpr (Summed) {
        // An infinite error that nothing is added by would be NaN.
        sum += weight == 0 ? 0 : weight * static_cast<double>(error);
      } else {
        store(views.weights + row * views.members + member, static_cast<C>(scale * weight));
      }
    }
    before += count;
    __syncthreads();
  }
  if constexpr (Summed) store_block_sum<kSortedThreads>(sum, views.partial);
}

// A block for each group: the sum of its partial sums, `lines` of so many, each times what its line counts.
template <class C>
__global__ void __launch_bounds__(kSortedThreads, kMinBlocks)
    sorted_losses_kernel(const double* partial, int64_t lines, int64_t of_line, const double* scale, C* losses) {
  HANDGRAD_LAUNCH_BOUNDS(kSortedThreads);
  double mine = 0;
  for (int64_t line = threadIdx.x; line < lines; line += kSortedThreads) {
    const int64_t row = blockIdx.x * lines + line;
    const double factor = scale ? load(scale + row) : 1;
    double sum = 0;
    for (int64_t k = 0; k < of_line; ++k) sum += load(partial + row * of_line + k);
    mine += factor == 0 ? 0 : factor * sum;
  }
  const double total = block_sum<kSortedThreads>(mine);
  if (threadIdx.x == 0) store(losses + blockIdx.x, static_cast<C>(total));
}

// The gradient of each position from the weights, or its derivatives along the directions. Blocks go over one group.
template <class C, class Formula, bool Second>
__global__ void __launch_bounds__(kSortedThreads, kMinBlocks)
    sorted_gradients_kernel(SortedViews<C> views, int64_t blocks_of_group) {
  HANDGRAD_LAUNCH_BOUNDS(kSortedThreads);
  const int64_t g = blockIdx.x / blocks_of_group;
  const int64_t member = blockIdx.x % blocks_of_group * kSortedThreads + threadIdx.x;
  double along = 0;
  if (member < views.members) {
    const PositionOf<C> position(views, g, member);
    const int32_t found = load(views.found + g * views.members + member);
    const Predictions<C> predictions(views, position);
    const C* const weights = views.weights + g * views.classes * views.members + member;
    const Stored<const C> directions = views.direction.at(g, position.s, 0, position.p);
    const auto slope = [&](int32_t c, C p) {
      return load(weights + c * views.members) * Formula::slope(p, found == c);
    };
    C mean_a = 0, mean_v = 0, product = 0;
    for (int32_t c = 0; c < views.classes && views.softmax; ++c) {
      const C p = predictions(c);
      mean_a += p * slope(c, p);
      if constexpr (Second) mean_v += p * read_constant(directions + c * views.direction.strides[2]);
    }
    if constexpr (Second) {
      for (int32_t c = 0; c < views.classes; ++c) {
        const C p = predictions(c), v = read_constant(directions + c * views.direction.strides[2]) - mean_v;
        product += (views.softmax ? p : C(1)) * slope(c, p) * v;
      }
      if (found != kIgnoredClass) along = static_cast<double>(product);
    }
    const C g_out = load_constant(views.grad_output + g);
    for (int32_t c = 0; c < views.classes && views.grad_inputs; ++c) {
      const C p = predictions(c), a = slope(c, p);
      C result = views.softmax ? p * (a - mean_a) : a;
      if constexpr (Second) {
        const C v = read_constant(directions + c * views.direction.strides[2]) - mean_v;
        result = views.softmax ? p * ((a - mean_a) * v - product) : C(0);
      }
      result = found == kNoClass ? std::numeric_limits<C>::quiet_NaN() : found == kIgnoredClass ? C(0) : g_out * result;
      write(views.grad_inputs.at(g, position.s, c, position.p), result);
    }
  }
  if constexpr (Second) store_block_sum<kSortedThreads>(along, views.partial);
}

}  // namespace handgrad
