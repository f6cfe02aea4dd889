// The work on (batch, channels, positions…) where each channel has numbers of its own, and sums of them, on CUDA
// devices.
//
// A warp takes a span of the positions of one channel, a position to a lane, or of 32 channels, a channel to a lane,
// whichever lie densely in memory. Sums of spans go to memory, in double, and a warp for each channel adds them up, in
// an order that depends on the shape alone.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"

namespace handgrad {

inline constexpr int kSpanThreads = 256, kSpanWarps = kSpanThreads / kWarpSize;
// Positions that a lane takes at once; those of a span, for each lane, at least; spans of a channel at most.
inline constexpr int64_t kSpanBatch = 4, kShortestSpan = 32, kMostSpans = 8192;

struct ChannelSpans {
  bool rows;                                  // a channel to a lane
  int64_t channels, positions, all;           // positions: of a sample; all: of all samples
  int64_t columns, per_channel, span, count;  // columns: of lanes; span: positions

  ChannelSpans(int64_t batch, int64_t channels, int64_t positions, bool channels_innermost)
      : rows(channels_innermost), channels(channels), positions(positions), all(batch * positions) {
    const int64_t lanes = rows ? 1 : kWarpSize, step = kSpanBatch * lanes;
    columns = rows ? (channels + kWarpSize - 1) / kWarpSize : channels;
    span = std::max(kShortestSpan * lanes, ((all + kMostSpans - 1) / kMostSpans + step - 1) / step * step);
    per_channel = (all + span - 1) / span;
    count = columns * per_channel;
  }
  Blocks blocks() const { return {(count + kSpanWarps - 1) / kSpanWarps, dim3(kSpanThreads, 1, 1)}; }
};

// What a lane has of its warp's span: positions [begin, end) of a channel, `step` apart.
struct ChannelSpan {
  int64_t c, span, begin, end, step;
  bool is_there, stores_sum;

  __device__ explicit ChannelSpan(const ChannelSpans& spans) {
    const int64_t index = int64_t{blockIdx.x} * kSpanWarps + threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
    const int64_t column = index / spans.per_channel;
    span = index - column * spans.per_channel;
    c = spans.rows ? column * kWarpSize + lane : column;
    is_there = index < spans.count && c < spans.channels;
    stores_sum = is_there && (spans.rows || lane == 0);
    step = spans.rows ? 1 : kWarpSize;
    const int64_t first = span * spans.span, rest = spans.all - first;
    begin = first + (spans.rows ? 0 : lane);
    end = is_there ? first + (rest < spans.span ? rest : spans.span) : 0;
  }
  // The sum of what the lanes have of a channel. All lanes of the warp must call it.
  __device__ void store_sum(const ChannelSpans& spans, double total, double* partial) const {
    if (!spans.rows) total = warp_sum(total);
    if (stores_sum) store(partial + c * spans.per_channel + span, total);
  }
};

// Sample and position of some positions that follow each other.
template <int64_t Lanes>
struct SpanPositions {
  int64_t n[Lanes], p[Lanes];
};

class SpanWalk {
 public:
  __device__ SpanWalk(const ChannelSpans& spans, const ChannelSpan& own)
      : positions_(spans.positions), step_(own.step), n_(own.begin / positions_), p_(own.begin - n_ * positions_) {}

  template <int64_t Lanes>
  __device__ __forceinline__ void next(SpanPositions<Lanes>& to) {
#pragma unroll
    for (int64_t k = 0; k < Lanes; ++k) {
      to.n[k] = n_, to.p[k] = p_;
      p_ += step_;
#pragma unroll 1
      while (p_ >= positions_) p_ -= positions_, ++n_;
    }
  }

 private:
  int64_t positions_, step_, n_, p_;
};

// The first `count` of these positions of channel c, and 0 for the others.
template <class C, int64_t Lanes>
__device__ __forceinline__ void load_span(const StoredView<const C, 3>& view, int64_t c, const SpanPositions<Lanes>& at,
                                          int64_t count, C (&to)[Lanes]) {
  dispatch_storage<C>(view.first.dtype, [&](auto tag) {
    const auto* const own = view.first.template as<typename decltype(tag)::type>() + c * view.strides[1];
#pragma unroll
    for (int64_t k = 0; k < Lanes; ++k) {
      to[k] = k < count ? widen(load_constant(own + at.n[k] * view.strides[0] + at.p[k] * view.strides[2])) : C(0);
    }
  });
}

template <class C, int64_t Lanes>
__device__ __forceinline__ void store_span(const C (&from)[Lanes], const StoredView<C, 3>& view, int64_t c,
                                           const SpanPositions<Lanes>& at, int64_t count) {
  dispatch_storage<C>(view.first.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* const own = view.first.template as<T>() + c * view.strides[1];
#pragma unroll
    for (int64_t k = 0; k < Lanes; ++k) {
      if (k < count) store(own + at.n[k] * view.strides[0] + at.p[k] * view.strides[2], narrow<T>(from[k]));
    }
  });
}

// A warp for each channel: the sums of its spans.
template <class C>
__global__ void __launch_bounds__(kSpanThreads, kMinBlocks)
    add_spans_kernel(const double* partial, int64_t per_channel, int64_t channels, C* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kSpanThreads);
  const int64_t c = int64_t{blockIdx.x} * kSpanWarps + threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  double total = 0;
  if (c < channels) {
#pragma unroll 4
    for (int64_t k = lane; k < per_channel; k += kWarpSize) total += load(partial + c * per_channel + k);
  }
  total = warp_sum(total);
  if (c < channels && lane == 0) store(sums + c, static_cast<C>(total));
}

inline Blocks span_sum_blocks(int64_t channels) {
  return {(channels + kSpanWarps - 1) / kSpanWarps, dim3(kSpanThreads, 1, 1)};
}

// The sums of spans, and what becomes of them.
template <class C>
class SpanSums {
 public:
  SpanSums(const ChannelSpans& spans, const Tensor& like)
      : spans_(spans), partial_(empty_vector<double>(spans.channels * spans.per_channel, like)) {}
  double* partial() const { return partial_.template mutable_data_ptr<double>(); }
  void finish(const char* op, const DeviceOf& device, C* sums) const {
    launch(op, add_spans_kernel<C>, device, span_sum_blocks(spans_.channels), partial(), spans_.per_channel,
           spans_.channels, sums);
  }

 private:
  const ChannelSpans& spans_;
  Tensor partial_;
};

}  // namespace handgrad
