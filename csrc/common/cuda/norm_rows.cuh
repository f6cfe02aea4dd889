// Loops of a normalisation over channels on the device, the counterpart of cpu/norm_rows.h: a kernel for each pass.
//
// A row belongs to a team of threads. Where positions lie densely in memory, threads of a warp have neighbouring rows
// and the team's lanes are in different warps, which meet in shared memory; where channels do, a team is a warp, or for
// many channels a block. A thread keeps its elements in scratch memory of its own, so that each is read from global
// memory once; the scratch is shared memory, or where that is too small, a piece of global memory.
//
// A block takes tile after tile of rows. What it adds to the gradients of weight and bias stays in its threads, in
// double, until it has done them all; then rows are added in their order, and blocks in theirs. The number of blocks
// depends on the shape alone.
#pragma once

#include <string>

#include "cpu/norm_operands.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/row_teams.cuh"
#include "cuda/slabs.cuh"
#include "math/channel_norm.h"

namespace handgrad {

// Blocks of sums over rows, the same on every device.
inline constexpr int64_t kNormBlocks = 512;
// Scratch of a block beyond which fewer rows are worth the sectors that are read in part.
inline constexpr int64_t kNormScratch = 80 * 1024;

// How the work is cut, and a block's scratch: `arrays` of elements, then those of channels, then sums in double.
struct NormCut {
  int64_t tiles, bytes;
  int32_t team, rows_of_block, steps, arrays, sums;
  bool innermost;
  unsigned char* global;
  double* partial;  // [block, sum, channel]

  __host__ __device__ int64_t elements() const { return int64_t{steps} * kRowThreads; }
  __device__ int32_t lane() const {
    return innermost ? static_cast<int32_t>(threadIdx.x) % team : static_cast<int32_t>(threadIdx.x) / rows_of_block;
  }
  __device__ int32_t row() const {
    return innermost ? static_cast<int32_t>(threadIdx.x) / team : static_cast<int32_t>(threadIdx.x) % rows_of_block;
  }
  __device__ int32_t thread(int32_t row, int32_t lane) const {
    return innermost ? row * team + lane : lane * rows_of_block + row;
  }
};

// Tensors of channels that a pass reads: weight, and then bias or the directions of both.
inline constexpr int kNormChannelArrays = 3;

// A thread's share of the rows of its block.
template <class C>
class NormShare {
 public:
  const NormViews<C>& views;
  const NormCut& cut;
  int32_t lane, channels = 0;
  int64_t sample = 0, position = 0;

  __device__ NormShare(const NormViews<C>& views, const NormCut& cut, unsigned char* scratch, C* meeting)
      : views(views), cut(cut), lane(cut.lane()), meeting_(meeting) {
    // Sums first: they are the most strictly aligned.
    sums_ = reinterpret_cast<double*>(scratch);
    own_ = reinterpret_cast<C*>(sums_ + cut.sums * cut.elements());
    of_channels_ = own_ + cut.arrays * cut.elements();
  }

  __device__ void begin(int64_t tile) {
    const int64_t row = tile * cut.rows_of_block + cut.row();
    const bool is_there = row < views.rows();
    channels = is_there ? static_cast<int32_t>(views.channels) : 0;
    sample = is_there ? row / views.positions : 0;
    position = is_there ? row - sample * views.positions : 0;
  }

  // Element k of this thread in one of its arrays, and in one of its sums.
  __device__ C& own(int array, int32_t k) const { return own_[(array * cut.steps + k) * kRowThreads + threadIdx.x]; }
  __device__ double& sum_of(int which, int32_t k) const {
    return sums_[(which * cut.steps + k) * kRowThreads + threadIdx.x];
  }
  __device__ C& of_channel(int array, int32_t c) const { return of_channels_[array * views.channels + c]; }

  // body(c, k) for the channels of this thread; of a row that is none there are none.
  template <class Body>
  __device__ void for_each(const Body& body) const {
    int32_t k = 0;
#pragma unroll 4
    for (int32_t c = lane; c < channels; c += cut.team, ++k) body(c, k);
  }

  // A copy of a tensor of channels; the next barrier orders it.
  __device__ void copy(int array, const View<const C, 1>& from, C otherwise) const {
    for (int32_t c = static_cast<int32_t>(threadIdx.x); c < views.channels; c += kRowThreads) {
      of_channel(array, c) = from ? load_constant(from.at(c)) : otherwise;
    }
  }
  __device__ void clear_sums() const {
    for (int32_t k = 0; k < cut.sums * cut.steps; ++k) sum_of(0, k) = 0;
  }

  // Each number averaged over the row, in an order that is always the same. All threads of the block must be here.
  template <int N>
  __device__ void average(C (&values)[N], C inverse_count) const {
    if (cut.innermost && cut.team <= kWarpSize) {
      for (int32_t distance = cut.team / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] += __shfl_xor_sync(0xffffffffu, values[k], distance);
      }
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) meeting_[k * kRowThreads + threadIdx.x] = values[k];
      __syncthreads();
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = 0;
#pragma unroll 1
      for (int32_t other = 0; other < cut.team; ++other) {
        const int32_t thread = cut.thread(cut.row(), other);
#pragma unroll
        for (int k = 0; k < N; ++k) values[k] += meeting_[k * kRowThreads + thread];
      }
      __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] *= inverse_count;
  }

  // What all rows of the block have added, channel by channel.
  __device__ void store_sums() const {
    __syncthreads();
    for (int32_t which = 0; which < cut.sums; ++which) {
      for (int32_t c = static_cast<int32_t>(threadIdx.x); c < views.channels; c += kRowThreads) {
        const double* from = sums_ + (which * cut.steps + c / cut.team) * kRowThreads;
        double total = 0;
        for (int32_t row = 0; row < cut.rows_of_block; ++row) total += from[cut.thread(row, c % cut.team)];
        store(cut.partial + (blockIdx.x * int64_t{cut.sums} + which) * views.channels + c, total);
      }
    }
  }

 private:
  double* sums_;
  C *own_, *of_channels_, *meeting_;
};

// The passes over the row of a team. Arrays are x, less its centre, then g and v; sums those of weight and bias.
template <class C, bool Centred>
struct NormPasses {
  const NormShare<C>& share;
  const ChannelNorm<C, Centred>& norm;

  __device__ RowMoments<C> read_moments() const {
    const auto x = share.views.input.at(share.sample, 0, share.position);
    const int64_t stride = share.views.input.strides[1];
    C centre[1] = {0};
    share.for_each([&](int32_t c, int32_t k) {
      const C value = read(x + c * stride);
      share.own(0, k) = value;
      centre[0] += value;
    });
    if constexpr (Centred) {
      share.average(centre, norm.inverse_count);
    } else {
      centre[0] = 0;
    }
    C sums[2] = {0, 0};
    share.for_each([&](int32_t, int32_t k) {
      const C d = share.own(0, k) - centre[0];
      share.own(0, k) = d;
      sums[0] += d;
      sums[1] += d * d;
    });
    share.average(sums, C(1));
    return norm.moments(sums[0], sums[1]);
  }

  __device__ void value() const {
    const RowMoments<C> row = read_moments();
    const auto y = share.views.output.at(share.sample, 0, share.position);
    const int64_t stride = share.views.output.strides[1];
    share.for_each([&](int32_t c, int32_t k) {
      write(y + c * stride,
            norm.value(row.normalised(share.own(0, k)), share.of_channel(0, c), share.of_channel(1, c)));
    });
  }

  __device__ void gradient() const {
    const RowMoments<C> row = read_moments();
    const auto from = share.views.grad_output.at(share.sample, 0, share.position);
    const int64_t from_stride = share.views.grad_output.strides[1];
    C means[2] = {0, 0};
    share.for_each([&](int32_t c, int32_t k) {
      const C g = read(from + c * from_stride), h = share.of_channel(0, c) * g;
      const C z = row.normalised(share.own(0, k));
      share.own(1, k) = h;
      means[0] += h;
      means[1] += h * z;
      if (share.cut.sums == 0) return;
      share.sum_of(0, k) += static_cast<double>(g * z);
      share.sum_of(1, k) += static_cast<double>(g);
    });
    if (!share.views.grad_input) return;
    share.average(means, norm.inverse_count);
    const auto to = share.views.grad_input.at(share.sample, 0, share.position);
    const int64_t stride = share.views.grad_input.strides[1];
    share.for_each([&](int32_t c, int32_t k) {
      const C z = row.normalised(share.own(0, k));
      write(to + c * stride, norm.projected(row.scale, z, share.own(1, k), means[0], means[1]));
    });
  }

  __device__ void second() const {
    const RowMoments<C> row = read_moments();
    const typename ChannelNorm<C, Centred>::Means means = read_means(row);
    const NormViews<C>& views = share.views;
    share.for_each([&](int32_t c, int32_t k) {
      const C z = row.normalised(share.own(0, k)), g = share.own(1, k), v = share.own(2, k);
      const C weight = share.of_channel(0, c), direction = share.of_channel(1, c);
      const C projected = norm.projected(row.scale, z, v, means.v, means.vz);
      if (share.cut.sums > 0) share.sum_of(0, k) += static_cast<double>(g * projected);
      if (views.output) {
        write(views.output.at(share.sample, c, share.position),
              norm.grad_grad_output(projected, z, weight, direction, share.of_channel(2, c)));
      }
      if (views.grad_input) {
        write(views.grad_input.at(share.sample, c, share.position),
              norm.second_grad_input(row.scale, z, v, weight * g, direction * g, means));
      }
    });
  }

 private:
  __device__ typename ChannelNorm<C, Centred>::Means read_means(const RowMoments<C>& row) const {
    const NormViews<C>& views = share.views;
    C first[4] = {0, 0, 0, 0};
    share.for_each([&](int32_t c, int32_t k) {
      const C g = read(views.grad_output.at(share.sample, c, share.position));
      const C v = views.direction_input ? read(views.direction_input.at(share.sample, c, share.position)) : C(0);
      const C z = row.normalised(share.own(0, k)), h = share.of_channel(0, c) * g;
      share.own(1, k) = g;
      share.own(2, k) = v;
      first[0] += v;
      first[1] += v * z;
      first[2] += h;
      first[3] += h * z;
    });
    share.average(first, norm.inverse_count);
    C later[3] = {0, 0, 0};
    share.for_each([&](int32_t c, int32_t k) {
      const C g = share.own(1, k), direction = share.of_channel(1, c) * g;
      later[0] += norm.from_mean(share.own(2, k), first[0]) * (share.of_channel(0, c) * g);
      later[1] += direction;
      later[2] += direction * row.normalised(share.own(0, k));
    });
    share.average(later, norm.inverse_count);
    return {first[0], first[1], first[2], first[3], later[0], later[1], later[2]};
  }
};

template <class C, bool Centred, RowPass Pass>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks)
    norm_rows_kernel(NormViews<C> views, NormCut cut, ChannelNorm<C, Centred> norm) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  HANDGRAD_DYNAMIC_SHARED(double, shared);
  __shared__ C meeting[(Pass == RowPass::second ? 4 : 2) * kRowThreads];
  unsigned char* const scratch =
      cut.global ? cut.global + blockIdx.x * cut.bytes : reinterpret_cast<unsigned char*>(shared);
  NormShare<C> share(views, cut, scratch, meeting);
  share.copy(0, views.weight, C(1));
  if constexpr (Pass == RowPass::value) share.copy(1, views.bias, C(0));
  if constexpr (Pass == RowPass::second) {
    share.copy(1, views.direction_weight, C(0));
    share.copy(2, views.direction_bias, C(0));
  }
  share.clear_sums();
  __syncthreads();
#pragma unroll 1
  for (int64_t tile = blockIdx.x; tile < cut.tiles; tile += gridDim.x) {
    share.begin(tile);
    const NormPasses<C, Centred> passes{share, norm};
    if constexpr (Pass == RowPass::value) {
      passes.value();
    } else if constexpr (Pass == RowPass::gradient) {
      passes.gradient();
    } else {
      passes.second();
    }
  }
  if (cut.sums > 0) share.store_sums();
}

// A block for each sum of a channel: the partial sums of all blocks to the results.
template <class C>
__global__ void __launch_bounds__(kSumThreads, kMinBlocks)
    norm_sums_kernel(const double* partial, int64_t blocks, int64_t stride, int64_t channels, C* weight, C* bias) {
  HANDGRAD_LAUNCH_BOUNDS(kSumThreads);
  double total = 0;
#pragma unroll 1
  for (int64_t i = threadIdx.x; i < blocks; i += kSumThreads) total += load(partial + i * stride + blockIdx.x);
  total = block_sum<kSumThreads>(total);
  if (threadIdx.x != 0) return;
  const bool is_weight = blockIdx.x < channels;
  C* const to = is_weight ? weight : bias;
  if (to) store(to + (blockIdx.x - (is_weight ? 0 : channels)), static_cast<C>(total));
}

}  // namespace handgrad
