// The kernels of adjust_tones on CUDA devices. A plane is a channel of an image.
//
// In order of appearance: Chain, the steps of a plane as a device finds them; what must be known of a plane; its
// tables; levels; numbers; their derivatives.
#pragma once

#include "adjust_tones_host.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"

namespace handgrad::adjust_tones {

// A thread for each level, where these are counted.
inline constexpr int kThreads = kLevels;
inline constexpr int kWarps = kThreads / kWarpSize;
// The most blocks that share the pixels of a plane where these are counted or summed.
inline constexpr int64_t kSumBlocks = 32;
// The pixels of a thread where numbers are made.
inline constexpr int64_t kPixels = 4;
// Sums of one kind: of two numbers with their tangents.
inline constexpr int kSums = 4;

using Key = unsigned long long;

// ---- steps ----------------------------------------------------------------------------------------------------------

// In the order of numbers, and 0 for what there is none of; NaN is the largest, and of negative ones the least.
__device__ __forceinline__ Key key_of(double x) {
  const Key bits = x != x ? ~Key{0} >> 1 : static_cast<Key>(detail::bits_as<uint64_t>(x));
  return bits >> 63 ? ~bits : bits | Key{1} << 63;
}
__device__ __forceinline__ double number_of(Key key) {
  return detail::bits_as<double>(static_cast<uint64_t>(key >> 63 ? key & ~Key{0} >> 1 : ~key));
}

// What kernels find out of each plane at each step.
struct Chain {
  ChainTable table;
  int64_t channels;
  Key* ends;        // [N, C, K, 2]: of the largest number, and of the least with its sign turned
  double* sums;     // [N, C, K, 2, kSums]: over what is the least and the largest; gradients of both
  uint8_t* tables;  // [N, C, K, kLevels], of levels [N, C, kLevels]

  __device__ int64_t place(int64_t plane, int64_t k) const { return plane * table.steps + k; }
  __device__ Operation operation(int64_t plane, int64_t k) const { return table.operation(plane / channels, k); }

  template <class N>
  __device__ Step<N> step(int64_t plane, int64_t k) const {
    using C = Plain<N>;
    const int64_t at = place(plane, k);
    Step<N> step{operation(plane, k),
                 static_cast<C>(table.number(plane / channels, k)),
                 C(0),
                 C(0),
                 N(0),
                 N(0),
                 N(0),
                 N(0),
                 nullptr};
    if (step.operation == Operation::equalize) step.table = tables + at * kLevels;
    if (step.operation != Operation::autocontrast) return step;
    step.high = static_cast<C>(number_of(load(ends + 2 * at)));
    step.low = -static_cast<C>(number_of(load(ends + 2 * at + 1)));
    step.least = N(step.low), step.range = N(step.high - step.low);
    if (!sums) return step;
    const double* of = sums + at * 2 * kSums;
    const double low = 1.0 / load(of), high = 1.0 / load(of + 2);
    if constexpr (!std::is_floating_point_v<N>) {
      step.least.tangent = static_cast<C>(load(of + 1) * low);
      step.range.tangent = static_cast<C>(load(of + 3) * high - load(of + 1) * low);
    }
    assign(load(of + 4) * low, load(of + 5) * low, step.to_low);
    assign(load(of + 6) * high, load(of + 7) * high, step.to_high);
    return step;
  }
};

// The steps of a plane, which all threads of a block read from shared memory.
template <class N>
struct PlaneSteps {
  const Step<N>* steps;
  int64_t count;

  // The first k.
  __device__ N apply(int64_t k, N x) const {
#pragma unroll 1
    for (int64_t j = 0; j < k; ++j) x = toned(x, steps[j]);
    return x;
  }
  // From the gradient of what the last steps make to that of what step `first` is given; what the steps before have
  // made of x is made again, which is cheaper than memory for it.
  __device__ N pull_back(int64_t first, N x, N grad) const {
#pragma unroll 1
    for (int64_t k = count; k-- > first;) grad = pulled_back(apply(k, x), grad, steps[k]);
    return grad;
  }
};
template <class N>
__device__ __forceinline__ PlaneSteps<N> steps_of(const Chain& chain, int64_t plane) {
  __shared__ Step<N> steps[kMostSteps];
  if (threadIdx.x < chain.table.steps) steps[threadIdx.x] = chain.step<N>(plane, threadIdx.x);
  __syncthreads();
  return {steps, chain.table.steps};
}

// An image; with tangents, if it is of dual numbers and there is a direction.
template <class N>
struct ToneSource {
  using C = Plain<N>;
  StoredView<const C, 4> values, tangents;

  __device__ N number(int64_t n, int64_t c, int64_t i, int64_t j) const {
    const C value = read(values.at(n, c, i, j));
    if constexpr (std::is_floating_point_v<N>) {
      return value;
    } else {
      return {value, tangents ? read(tangents.at(n, c, i, j)) : C(0)};
    }
  }
};

// The pixels of a plane that fall to a thread where `blocks` blocks share it: body(n, c, i, j).
template <class Body>
__device__ __forceinline__ void for_each_own_pixel(const Geometry& geometry, int64_t blocks, const Body& body) {
  const int64_t plane = blockIdx.x / blocks, block = blockIdx.x - plane * blocks;
  const int64_t n = plane / geometry.channels, c = plane - n * geometry.channels;
  for (int64_t p = block * kThreads + threadIdx.x; p < geometry.pixels(); p += blocks * kThreads)
    body(n, c, p / geometry.width, p % geometry.width);
}

// ---- what must be known of a plane ----------------------------------------------------------------------------------

// level(n, c, i, j) of the pixels of a plane, counted: in the block first, then in global memory. Whole numbers: who is
// first does not matter.
template <class Level>
__device__ __forceinline__ void count_levels(const Geometry& geometry, int64_t blocks, Key* counts,
                                             const Level& level) {
  __shared__ unsigned of_block[kLevels];
  of_block[threadIdx.x] = 0;
  __syncthreads();
  for_each_own_pixel(geometry, blocks,
                     [&](int64_t n, int64_t c, int64_t i, int64_t j) { atomicAdd(of_block + level(n, c, i, j), 1u); });
  __syncthreads();
  const unsigned own = of_block[threadIdx.x];
  if (own > 0) atomicAdd(counts + blockIdx.x / blocks * kLevels + threadIdx.x, static_cast<Key>(own));
}

__global__ void __launch_bounds__(kThreads, kMinBlocks)
    histogram_kernel(Geometry geometry, Chain chain, View<const uint8_t, 4> image, int64_t blocks,
                     Key* counts) {  // [N, C, kLevels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  if (!chain.table.has_statistic(blockIdx.x / blocks / geometry.channels)) return;
  count_levels(geometry, blocks, counts,
               [&](int64_t n, int64_t c, int64_t i, int64_t j) { return load(image.at(n, c, i, j)); });
}

// Of numbers at step k: the ends for autocontrast, a histogram for equalize.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    statistics_kernel(Geometry geometry, Chain chain, ToneSource<C> image, int64_t k, int64_t blocks, bool only_sloping,
                      Key* counts) {  // [N, C, kLevels]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t plane = blockIdx.x / blocks;
  const Operation operation = chain.operation(plane, k);
  if (!has_statistic(operation) || (only_sloping && chain.table.is_flat(plane / geometry.channels))) return;
  const PlaneSteps<C> steps = steps_of<C>(chain, plane);
  if (operation == Operation::equalize) {
    count_levels(geometry, blocks, counts, [&](int64_t n, int64_t c, int64_t i, int64_t j) {
      return level_of(steps.apply(k, image.number(n, c, i, j)));
    });
    return;
  }
  Key high = 0, low = 0;
  for_each_own_pixel(geometry, blocks, [&](int64_t n, int64_t c, int64_t i, int64_t j) {
    const double x = static_cast<double>(steps.apply(k, image.number(n, c, i, j)));
    const Key key = key_of(x), turned = key_of(-x);
    high = key > high ? key : high, low = turned > low ? turned : low;
  });
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    const Key other = __shfl_down_sync(0xffffffffu, high, distance),
              least = __shfl_down_sync(0xffffffffu, low, distance);
    high = other > high ? other : high, low = least > low ? least : low;
  }
  if (threadIdx.x % kWarpSize != 0) return;
  atomicMax(chain.ends + 2 * chain.place(plane, k), high);
  atomicMax(chain.ends + 2 * chain.place(plane, k) + 1, low);
}

// Sums over the pixels of planes whose step k is autocontrast, one of each warp: of those that are an end, their number
// and their tangents; or of what all pixels contribute to the gradients of the ends.
template <class N, bool kGradients>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sums_kernel(Geometry geometry, Chain chain, ToneSource<N> image, StoredView<const Plain<N>, 4> grad_output,
                int64_t k, int64_t blocks, double* sums) {  // [N, C, blocks, kWarps, kSums]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t plane = blockIdx.x / blocks;
  if (chain.operation(plane, k) != Operation::autocontrast || chain.table.is_flat(plane / geometry.channels)) return;
  const PlaneSteps<N> steps = steps_of<N>(chain, plane);
  const Step<N> step = steps.steps[k];
  double own[kSums] = {};
  for_each_own_pixel(geometry, blocks, [&](int64_t n, int64_t c, int64_t i, int64_t j) {
    const N given = image.number(n, c, i, j), x = steps.apply(k, given);
    if constexpr (kGradients) {
      const N grad = steps.pull_back(k + 1, given, N(read(grad_output.at(n, c, i, j))));
      const Contribution<N> to = contribution(x, grad, step);
      own[0] += static_cast<double>(value_of(to.low)), own[1] += tangent_of(to.low);
      own[2] += static_cast<double>(value_of(to.high)), own[3] += tangent_of(to.high);
    } else {
      const bool is_low = value_of(x) == step.low, is_high = value_of(x) == step.high;
      own[0] += is_low ? 1.0 : 0.0, own[1] += is_low ? tangent_of(x) : 0.0;
      own[2] += is_high ? 1.0 : 0.0, own[3] += is_high ? tangent_of(x) : 0.0;
    }
  });
#pragma unroll
  for (int q = 0; q < kSums; ++q) own[q] = warp_sum(own[q]);
  if (threadIdx.x % kWarpSize != 0) return;
#pragma unroll
  for (int q = 0; q < kSums; ++q)
    store(sums + (int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize) * kSums + q, own[q]);
}

// A thread has a plane; `kind`: 0 for the sums of the ends, 1 for those of their gradients.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    fold_kernel(Geometry geometry, Chain chain, int64_t k, int64_t blocks, int64_t kind, const double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t plane = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (plane >= geometry.planes()) return;
  if (chain.operation(plane, k) != Operation::autocontrast || chain.table.is_flat(plane / geometry.channels)) return;
  double totals[kSums] = {};
  for (int64_t part = plane * blocks * kWarps; part < (plane + 1) * blocks * kWarps; ++part) {
#pragma unroll
    for (int q = 0; q < kSums; ++q) totals[q] += load(sums + part * kSums + q);
  }
#pragma unroll
  for (int q = 0; q < kSums; ++q) store(chain.sums + (chain.place(plane, k) * 2 + kind) * kSums + q, totals[q]);
}

// ---- tables ---------------------------------------------------------------------------------------------------------

// What steps [first, last) make of every level, of planes with these counts. A block has a plane, a thread a level; of
// what must be known of all levels it finds out all by itself.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    tables_kernel(Geometry geometry, Chain chain, int64_t first, int64_t last, const Key* counts,  // [N, C, kLevels]
                  int64_t pitch) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  __shared__ int64_t shared_counts[kLevels];
  __shared__ int32_t shared_levels[2][kLevels];
  const int64_t plane = blockIdx.x;
  const int32_t own = static_cast<int32_t>(threadIdx.x);
  shared_counts[own] = static_cast<int64_t>(load(counts + plane * kLevels + own));
  int32_t level = own, side = 0;
  for (int64_t k = first; k < last; ++k) {
    const Operation operation = chain.operation(plane, k);
    if (!has_statistic(operation)) {
      level = pointwise_level(operation, chain.table.number(plane / geometry.channels, k), level);
      continue;
    }
    // Of the other side no thread is still reading when this one is written again.
    side = 1 - side;
    shared_levels[side][own] = level;
    __syncthreads();
    int32_t low = kLevels, high = -1;
    int64_t below = 0, others = 0, most = 0;
    for (int64_t i = 0; i < kLevels; ++i) {
      const int64_t count = shared_counts[i];
      const int32_t other = shared_levels[side][i];
      if (count == 0) continue;
      below += other < level ? count : 0;
      others += other > high ? most : other < high ? count : 0;
      most = other > high ? count : other == high ? most + count : most;
      low = other < low ? other : low, high = other > high ? other : high;
    }
    level =
        operation == Operation::equalize ? equalized_level(level, below, others) : stretched_level(level, low, high);
  }
  store(chain.tables + plane * pitch + own, static_cast<uint8_t>(level));
}

// ---- levels ---------------------------------------------------------------------------------------------------------

// Of an image that nothing must be known of, levels are computed.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    levels_kernel(Geometry geometry, Chain chain, View<const uint8_t, 4> image, View<uint8_t, 4> output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= geometry.batch * geometry.pixels()) return;
  const int64_t n = index / geometry.pixels(), rest = index - n * geometry.pixels();
  const int64_t i = rest / geometry.width, j = rest - i * geometry.width;
  const bool looks_up = chain.table.has_statistic(n);
  for (int64_t c = 0; c < geometry.channels; ++c) {
    int32_t level = load(image.at(n, c, i, j));
    if (looks_up) {
      level = load_constant(chain.tables + (n * geometry.channels + c) * kLevels + level);
    } else {
      for (int64_t k = 0; k < geometry.steps; ++k)
        level = pointwise_level(chain.table.operation(n, k), chain.table.number(n, k), level);
    }
    store(output.at(n, c, i, j), static_cast<uint8_t>(level));
  }
}

// ---- numbers --------------------------------------------------------------------------------------------------------

template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    numbers_kernel(Geometry geometry, Chain chain, ToneSource<C> image, int64_t blocks, StoredView<C, 4> output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const PlaneSteps<C> steps = steps_of<C>(chain, blockIdx.x / blocks);
  for_each_own_pixel(geometry, blocks, [&](int64_t n, int64_t c, int64_t i, int64_t j) {
    write(output.at(n, c, i, j), steps.apply(geometry.steps, image.number(n, c, i, j)));
  });
}

// In plain numbers the gradient of the image; in dual ones both results of the double backward, tangents.
template <class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gradients_kernel(Geometry geometry, Chain chain, ToneSource<N> image, StoredView<const Plain<N>, 4> grad_output,
                     int64_t blocks, StoredView<Plain<N>, 4> grad_image, StoredView<Plain<N>, 4> grad_grad_output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Plain<N>;
  const int64_t plane = blockIdx.x / blocks;
  const bool is_flat = chain.table.is_flat(plane / geometry.channels);
  const PlaneSteps<N> steps = steps_of<N>(chain, plane);
  for_each_own_pixel(geometry, blocks, [&](int64_t n, int64_t c, int64_t i, int64_t j) {
    C along = 0, grad = 0;
    if (!is_flat) {
      const N x = image.number(n, c, i, j);
      if (grad_grad_output) along = result_of(steps.apply(geometry.steps, x));
      if (grad_image) grad = result_of(steps.pull_back(0, x, N(read(grad_output.at(n, c, i, j)))));
    }
    if (grad_grad_output) write(grad_grad_output.at(n, c, i, j), along);
    if (grad_image) write(grad_image.at(n, c, i, j), grad);
  });
}

}  // namespace handgrad::adjust_tones
