// The kernels of adjust_colors on CUDA devices. A thread has a pixel, all channels of it.
//
// In order of appearance: sums over the pixels of an image; the output; the gradients.
#pragma once

#include "adjust_colors_pixel.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace handgrad::adjust_colors {

inline constexpr int kThreads = 128;
// The most blocks that share the pixels of an image where these are summed.
inline constexpr int64_t kSumBlocks = 64;

// ---- sums over an image ---------------------------------------------------------------------------------------------

// A block's sums of Q numbers of its threads, in a fixed order.
template <int Q>
__device__ __forceinline__ void store_block_sums(const double (&values)[Q], double* to) {
  constexpr int kWarps = kThreads / kWarpSize;
  __shared__ double of_warps[Q][kWarps];
#pragma unroll
  for (int q = 0; q < Q; ++q) {
    const double sum = warp_sum(values[q]);
    if (threadIdx.x % kWarpSize == 0) of_warps[q][threadIdx.x / kWarpSize] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= Q) return;
  double total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += of_warps[threadIdx.x][warp];
  store(to + threadIdx.x, total);
}

// body(n, i, j) for the pixels that fall to a thread where `blocks` blocks share an image.
template <class Body>
__device__ __forceinline__ void for_each_own_pixel(const Geometry& geometry, int64_t blocks, const Body& body) {
  const int64_t n = blockIdx.x / blocks, block = blockIdx.x - n * blocks;
  for (int64_t p = block * kThreads + threadIdx.x; p < geometry.pixels(); p += blocks * kThreads)
    body(n, p / geometry.width, p % geometry.width);
}

// Of gray after the first k steps: of levels the sums of lanes, of numbers value and tangent. In is uint8_t or the
// numbers N.
template <class In, class N, int Q>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gray_sums_kernel(Geometry geometry, Chain chain, Source<In> image, int64_t k, int64_t blocks, double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  constexpr bool kLevels = sizeof(In) == 1;
  static_assert(kThreads % kLanes == 0, "all pixels of a thread are in one lane");
  const int64_t whole = geometry.pixels() / kLanes * kLanes;
  double value = 0, other = 0;
  if (chain.table.operation(blockIdx.x / blocks, k) == Operation::contrast) {
    for_each_own_pixel(geometry, blocks, [&](int64_t n, int64_t i, int64_t j) {
      Pixel<N> x = image.pixel(n, geometry.channels, i, j);
      apply_chain<kLevels>(chain, n, k, geometry.channels, x);
      const N number = gray_of<kLevels>(x, geometry.channels);
      const bool is_left = kLevels && i * geometry.width + j >= whole;
      value += is_left ? 0.0 : static_cast<double>(value_of(number));
      other += is_left ? static_cast<double>(value_of(number)) : tangent_of(number);
    });
  }
  double own[Q];
#pragma unroll
  for (int q = 0; q < Q; ++q) own[q] = !kLevels || static_cast<int>(threadIdx.x % kLanes) == q ? value : 0.0;
  own[Q - 1] = other;
  store_block_sums(own, sums + int64_t{blockIdx.x} * Q);
}

// Of what pixels contribute to the gradients of factor and mean of step k.
template <class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    contributions_kernel(Geometry geometry, Chain chain, Source<N> image, StoredView<const Plain<N>, 4> grad_output,
                         Statistics statistics, int64_t k, int64_t blocks, double* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  double own[4] = {};
  for_each_own_pixel(geometry, blocks, [&](int64_t n, int64_t i, int64_t j) {
    const Pixel<Plain<N>> given = load_grad(grad_output, statistics, n, i, j);
    Pixel<N> grad{N(given.red), N(given.green), N(given.blue)};
    const Contribution<N> to =
        pull_back_chain(chain, n, k, geometry.channels, image.pixel(n, geometry.channels, i, j), grad);
    own[0] += static_cast<double>(value_of(to.mean)), own[1] += tangent_of(to.mean);
    own[2] += static_cast<double>(value_of(to.factor)), own[3] += tangent_of(to.factor);
  });
  store_block_sums(own, sums + int64_t{blockIdx.x} * 4);
}

// What becomes of the sums of the blocks of an image: number `at`, and the next, of what is found of step k; and the
// factor's gradient, sum `factor` of them.
struct Fold {
  int64_t k, blocks;
  int at, factor;
};

// A thread has an image. Of kLaneSums sums, the mean of levels.
template <int Q>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    fold_kernel(Geometry geometry, Chain chain, Fold fold, const double* sums, View<double, 2> grad_factors) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= geometry.batch) return;
  double totals[Q] = {};
  for (int64_t block = 0; block < fold.blocks; ++block) {
#pragma unroll
    for (int q = 0; q < Q; ++q) totals[q] += load(sums + (n * fold.blocks + block) * Q + q);
  }
  double* found = chain.found_of(n, fold.k) + fold.at;
  if constexpr (Q == kLaneSums) {
    store(found, static_cast<double>(mean_of_lanes(totals, geometry.pixels())));
  } else {
    const double share = 1.0 / static_cast<double>(geometry.pixels());
    store(found, totals[0] * share);
    store(found + 1, totals[1] * share);
    if (Q > 2 && grad_factors) store(grad_factors.at(n, fold.k), fold.factor == 2 ? totals[Q - 2] : totals[Q - 1]);
  }
}

// ---- the output -----------------------------------------------------------------------------------------------------

template <class Out, class N>
__device__ __forceinline__ void store_finished(Out* to, N value, const Statistics& statistics, int32_t c,
                                               bool of_levels) {
  if constexpr (sizeof(Out) == 1) {
    store(to, static_cast<Out>(value));
  } else {
    Compute<Out> number = static_cast<Compute<Out>>(value);
    if (of_levels) number = statistics.scaled(number);
    store(to, narrow<Out>(statistics.apply(number, c)));
  }
}

// In is uint8_t, or what numbers are computed in.
template <class In, class Out>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    output_kernel(Geometry geometry, Chain chain, Statistics statistics, Source<In> image,
                  View<Out, 4> output) {  // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  constexpr bool kLevels = sizeof(In) == 1;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= geometry.batch * geometry.pixels()) return;
  const int64_t n = index / geometry.pixels(), rest = index - n * geometry.pixels();
  const int64_t i = rest / geometry.width, j = rest - i * geometry.width;
  auto x = image.pixel(n, geometry.channels, i, j);
  apply_chain<kLevels>(chain, n, geometry.steps, geometry.channels, x);
  store_finished(output.at(n, 0, i, j), x.red, statistics, 0, kLevels);
  if (geometry.channels == 1) return;
  store_finished(output.at(n, 1, i, j), x.green, statistics, 1, kLevels);
  store_finished(output.at(n, 2, i, j), x.blue, statistics, 2, kLevels);
}

// ---- the gradients --------------------------------------------------------------------------------------------------

// In plain numbers that of the image; in dual ones both results of the double backward that are images, tangents.
template <class N>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    gradients_kernel(Geometry geometry, Chain chain, Source<N> image, StoredView<const Plain<N>, 4> grad_output,
                     Statistics statistics, StoredView<Plain<N>, 4> grad_image,
                     StoredView<Plain<N>, 4> grad_grad_output) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Plain<N>;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= geometry.batch * geometry.pixels()) return;
  const int64_t n = index / geometry.pixels(), rest = index - n * geometry.pixels();
  const int64_t i = rest / geometry.width, j = rest - i * geometry.width;
  const Pixel<N> x = image.pixel(n, geometry.channels, i, j);
  const auto store_pixel = [&](const StoredView<C, 4>& to, const Pixel<N>& pixel, const Statistics& divisors) {
    const N numbers[3] = {pixel.red, pixel.green, pixel.blue};
#pragma unroll
    for (int32_t c = 0; c < 3; ++c) {
      if (c >= statistics.count) continue;
      if constexpr (std::is_floating_point_v<N>) {
        store_number(to, n, c, i, j, numbers[c]);
      } else {
        store_number(to, n, c, i, j, divisors.apply(numbers[c].tangent, c));
      }
    }
  };
  if (grad_grad_output) {
    Pixel<N> moved = x;
    apply_chain<false>(chain, n, geometry.steps, geometry.channels, moved);
    store_pixel(grad_grad_output, moved, statistics);
  }
  if (!grad_image) return;
  const Pixel<C> given = load_grad(grad_output, statistics, n, i, j);
  Pixel<N> grad{N(given.red), N(given.green), N(given.blue)};
  pull_back_chain(chain, n, 0, geometry.channels, x, grad);
  store_pixel(grad_image, grad, Statistics{});
}

}  // namespace handgrad::adjust_colors
