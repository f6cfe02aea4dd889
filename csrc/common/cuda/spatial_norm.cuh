// A normalisation of each channel by sums over its positions, on the device: the counterpart of cpu/spatial_norm.h.
//
// Warps work by themselves, and no block waits. A piece is what a warp takes: where positions lie densely in memory, so
// many positions of one channel, and the warp's lanes are neighbours of these; where channels do, fewer positions of 32
// channels, one to each lane. So a warp reads whole sectors either way. Sums of pieces are stored in double, added by a
// thread for each channel of a sample, turned into factors by a warp for each group of channels, and read again by the
// warps that write. The pieces depend on the shape alone.
#pragma once

#include <string>

#include "cpu/spatial_operands.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"

namespace handgrad {

inline constexpr int kSpatialThreads = 256, kSpatialWarps = kSpatialThreads / kWarpSize;
// Positions of a piece: of one channel, and of 32 side by side.
inline constexpr int64_t kPositionsOfPlane = 1024, kPositionsOfRows = 32;

struct SpatialPieces {
  bool rows;
  int64_t span, spans, lanes, columns, count;  // columns: channels, or 32 of them, of a sample

  template <class C>
  explicit SpatialPieces(const SpatialViews<C>& views) : rows(views.channels_innermost()) {
    span = rows ? kPositionsOfRows : kPositionsOfPlane;
    spans = (views.positions + span - 1) / span;
    lanes = rows ? kWarpSize : 1;
    columns = (views.channels + lanes - 1) / lanes;
    count = views.batch * columns * spans;
  }
  Blocks blocks() const { return {(count + kSpatialWarps - 1) / kSpatialWarps, dim3(kSpatialThreads, 1, 1)}; }
};

// What a lane has of its warp's piece.
struct SpatialPiece {
  int64_t sample, channel, span, position, end, step;
  bool is_there;

  template <class C>
  __device__ SpatialPiece(const SpatialViews<C>& views, const SpatialPieces& pieces) {
    const int64_t index = int64_t{blockIdx.x} * kSpatialWarps + threadIdx.x / kWarpSize;
    const int64_t lane = threadIdx.x % kWarpSize, column = index / pieces.spans;
    span = index - column * pieces.spans;
    sample = column / pieces.columns;
    channel = (column - sample * pieces.columns) * pieces.lanes + (pieces.rows ? lane : 0);
    is_there = index < pieces.count && channel < views.channels;
    const int64_t begin = span * pieces.span, rest = views.positions - begin;
    position = begin + (pieces.rows ? 0 : lane);
    step = pieces.rows ? 1 : kWarpSize;
    end = is_there ? begin + (rest < pieces.span ? rest : pieces.span) : 0;
  }
};

// The elements that a lane reads, at one position after another.
template <class C>
struct SpatialReader {
  Stored<const C> x, g, v;
  int64_t x_step, g_step, v_step;

  __device__ SpatialReader(const SpatialViews<C>& views, const SpatialPiece& at)
      : x_step(at.step * views.input.strides[2]),
        g_step(at.step * views.grad_output.strides[2]),
        v_step(at.step * views.direction_input.strides[2]) {
    if (!at.is_there) return;
    x = views.input.at(at.sample, at.channel, at.position);
    if (views.grad_output) g = views.grad_output.at(at.sample, at.channel, at.position);
    if (views.direction_input) v = views.direction_input.at(at.sample, at.channel, at.position);
  }
  __device__ static C read_or_zero(const Stored<const C>& from) { return from.data ? read(from) : C(0); }
  __device__ void step() { x += x_step, g += g_step, v += v_step; }
};

template <class C, bool Rectified>
__device__ __forceinline__ SpatialElement<C, Rectified> spatial_element(const C* factors) {
  if constexpr (!Rectified) return {load_constant(factors + kScale), load_constant(factors + kShift), C(0)};
  return {load_constant(factors + kScale), load_constant(factors + kShift), load_constant(factors + kFloor)};
}

// A sum over the lanes, in all of them.
__device__ __forceinline__ double spatial_warp_sum(double value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// partial[sample, span, channel, sum]: those of squares and of x v, or the others, or all of them.
template <class C, bool Rectified, RowPass Pass, bool Squares, bool Others>
__global__ void __launch_bounds__(kSpatialThreads, kMinBlocks)
    spatial_sums_kernel(SpatialViews<C> views, SpatialPieces pieces, const C* factors, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kSpatialThreads);
  constexpr bool kSecond = Pass == RowPass::second;
  const SpatialPiece at(views, pieces);
  SpatialReader<C> reader(views, at);
  SpatialElement<C, Rectified> element{};
  if constexpr (Rectified && Others) {
    if (at.is_there) {
      element = spatial_element<C, true>(factors + (at.sample * views.channels + at.channel) * kSpatialFactors);
    }
  }
  C own[kSpatialSums] = {};
#pragma unroll 4
  for (int64_t p = at.position; p < at.end; p += at.step) {
    const C x = read(reader.x);
    const C v = kSecond ? reader.read_or_zero(reader.v) : C(0);
    if constexpr (Squares) own[kSquares] += x * x;
    if constexpr (Squares && kSecond) own[kAlong] += x * v;
    if constexpr (Others) {
      const C g = read(reader.g), kept = element.kept(x, g);
      own[kSlope] += kept * x;
      own[kGrad] += kSecond ? kept * v : kept;
      if constexpr (Pass == RowPass::gradient && Rectified) own[kRest] += element.cut(x, g);
    }
    reader.step();
  }
  double sums[kSpatialSums];
  for (int k = 0; k < kSpatialSums; ++k) sums[k] = static_cast<double>(own[k]);
  if constexpr (Squares && std::is_same_v<C, float>) {
    // Squares beyond float are within double.
    if (!(own[kSquares] <= std::numeric_limits<C>::max())) {
      sums[kSquares] = 0;
      SpatialReader<C> again(views, at);
#pragma unroll 1
      for (int64_t p = at.position; p < at.end; p += at.step) {
        const double x = static_cast<double>(read(again.x));
        sums[kSquares] += x * x;
        again.step();
      }
    }
  }
  if (!pieces.rows) {
    for (int k = 0; k < kSpatialSums; ++k) sums[k] = spatial_warp_sum(sums[k]);
  }
  if (!at.is_there || (!pieces.rows && threadIdx.x % kWarpSize != 0)) return;
  double* const to =
      partial + ((at.sample * pieces.spans + at.span) * views.channels + at.channel) * int64_t{kSpatialSums};
  for (int k = 0; k < kSpatialSums; ++k) {
    const bool of_squares = k == kSquares || (kSecond && k == kAlong);
    if (of_squares ? Squares : Others) store(to + k, sums[k]);
  }
}

// A thread for each channel of a sample: the sums of its pieces, in their order, to the first piece.
__global__ inline void __launch_bounds__(kSpatialThreads, kMinBlocks)
    spatial_fold_kernel(double* partial, int64_t batch, int64_t spans, int64_t channels, int32_t sums) {
  HANDGRAD_LAUNCH_BOUNDS(kSpatialThreads);
  const int64_t index = int64_t{blockIdx.x} * kSpatialThreads + threadIdx.x, width = channels * kSpatialSums;
  if (index >= batch * width || !(sums >> index % kSpatialSums & 1)) return;
  const int64_t sample = index / width;
  double* const first = partial + sample * spans * width + (index - sample * width);
  double total = 0;
#pragma unroll 4
  for (int64_t span = 0; span < spans; ++span) total += load(first + span * width);
  store(first, total);
}

// What a lane of spatial_factors_kernel knows of a channel.
template <class C>
__device__ SpatialState spatial_state(const SpatialViews<C>& views, const double* sums, int32_t known, int64_t c,
                                      bool second) {
  double own[kSpatialSums];
  for (int k = 0; k < kSpatialSums; ++k) own[k] = known >> k & 1 ? load(sums + k) : 0;
  return views.state(c, own, second);
}

// A warp for each group: totals over its channels, then the factors and the parts of gradients of each.
template <class C, class Norm>
__global__ void __launch_bounds__(kSpatialThreads, kMinBlocks)
    spatial_factors_kernel(SpatialViews<C> views, Norm norm, int64_t spans, int64_t group, int32_t known, bool second,
                           const double* partial, C* factors, double* grads) {
  HANDGRAD_LAUNCH_BOUNDS(kSpatialThreads);
  const int64_t index = int64_t{blockIdx.x} * kSpatialWarps + threadIdx.x / kWarpSize;
  const int64_t groups = (views.channels + group - 1) / group, sample = index / groups;
  if (sample >= views.batch) return;
  const int64_t first = (index - sample * groups) * group, lane = threadIdx.x % kWarpSize;
  const int64_t end = first + group < views.channels ? first + group : views.channels;
  const double* const sums = partial + sample * spans * views.channels * kSpatialSums;
  double totals[Norm::kTotals] = {};
  if constexpr (Norm::kTotals > 1) {
#pragma unroll 1
    for (int64_t c = first + lane; c < end; c += kWarpSize) {
      norm.add(spatial_state(views, sums + c * kSpatialSums, known, c, second), totals);
    }
    for (int k = 0; k < Norm::kTotals; ++k) totals[k] = spatial_warp_sum(totals[k]);
  }
#pragma unroll 1
  for (int64_t c = first + lane; c < end; c += kWarpSize) {
    const SpatialState state = spatial_state(views, sums + c * kSpatialSums, known, c, second);
    const SpatialFactors made = norm.factors(state, totals);
    const int64_t row = sample * views.channels + c;
    C own[kSpatialFactors];
    views.set_factors(c, made, own, 1);
    for (int k = 0; k < kSpatialFactors; ++k) store(factors + row * kSpatialFactors + k, own[k]);
    if (!grads) continue;
    double parts[kSpatialParameters];
    views.set_grads(state, made, parts);
    for (int k = 0; k < kSpatialParameters; ++k) store(grads + row * kSpatialParameters + k, parts[k]);
  }
}

template <class C, bool Rectified, RowPass Pass>
__global__ void __launch_bounds__(kSpatialThreads, kMinBlocks)
    spatial_write_kernel(SpatialViews<C> views, SpatialPieces pieces, const C* factors) {
  HANDGRAD_LAUNCH_BOUNDS(kSpatialThreads);
  const SpatialPiece at(views, pieces);
  if (!at.is_there) return;
  SpatialReader<C> reader(views, at);
  const C* const own = factors + (at.sample * views.channels + at.channel) * kSpatialFactors;
  const auto element = spatial_element<C, Rectified>(own);
  const C of_input = Pass == RowPass::value ? C(0) : load_constant(own + kOfInput);
  C rest[kSpatialFactors] = {};
  if constexpr (Pass == RowPass::second) {
    for (int k = kMoved; k < kSpatialFactors; ++k) rest[k] = load_constant(own + k);
  }
  Stored<C> output, grad_input;
  if (views.output) output = views.output.at(at.sample, at.channel, at.position);
  if (views.grad_input) grad_input = views.grad_input.at(at.sample, at.channel, at.position);
  const int64_t output_step = at.step * views.output.strides[2], grad_step = at.step * views.grad_input.strides[2];
#pragma unroll 4
  for (int64_t p = at.position; p < at.end; p += at.step) {
    const C x = read(reader.x);
    if constexpr (Pass == RowPass::value) {
      write(output, element.value(x));
    } else if constexpr (Pass == RowPass::gradient) {
      write(grad_input, element.grad_input(x, read(reader.g), of_input));
    } else {
      const C g = read(reader.g), v = reader.read_or_zero(reader.v);
      const auto made = element.second(x, g, v, rest[kMoved], of_input, rest[kOfDirection], rest[kDirectionShift],
                                       rest[kDirectionFloor]);
      if (output.data) write(output, made.grad_grad_output);
      if (grad_input.data) write(grad_input, made.grad_input);
    }
    reader.step();
    output += output_step;
    grad_input += grad_step;
  }
}

// A thread for each channel: the parts of all samples to the gradients of the parameters.
template <class C>
__global__ void __launch_bounds__(kSpatialThreads, kMinBlocks)
    spatial_grads_kernel(SpatialViews<C> views, const double* parts) {
  HANDGRAD_LAUNCH_BOUNDS(kSpatialThreads);
  const int64_t c = int64_t{blockIdx.x} * kSpatialThreads + threadIdx.x;
  if (c >= views.channels) return;
#pragma unroll 1
  for (int k = 0; k < kSpatialParameters; ++k) {
    if (!views.grads[k]) continue;
    double total = 0;
#pragma unroll 4
    for (int64_t n = 0; n < views.batch; ++n) total += load(parts + (n * views.channels + c) * kSpatialParameters + k);
    store(views.grads[k] + c, static_cast<C>(total));
  }
}

// The launches of a pass, in their order.
template <class C, class Norm, bool Rectified, RowPass Pass>
class SpatialLaunches {
 public:
  SpatialLaunches(const std::string& op, const SpatialOperands& operands, double eps)
      : op_(op),
        device_(operands.input.tensor),
        views_(operands),
        pieces_(views_),
        norm_(eps, views_.group, views_.positions),
        partial_(
            empty_vector<double>(views_.batch * pieces_.spans * views_.channels * kSpatialSums, operands.input.tensor)),
        factors_(empty_vector<C>(views_.batch * views_.channels * kSpatialFactors, operands.input.tensor)) {
    if (!views_.has_grads()) return;
    grads_ = empty_vector<double>(views_.batch * views_.channels * kSpatialParameters, operands.input.tensor);
  }

  void run() {
    constexpr bool kTwice = Rectified && Pass != RowPass::value;
    constexpr int32_t kOfSquares = 1 << kSquares | (Pass == RowPass::second ? 1 << kAlong : 0);
    constexpr int32_t kAll = Pass == RowPass::value ? 1 << kSquares : (1 << kSpatialSums) - 1;
    if constexpr (kTwice) {
      sum<true, false>(kOfSquares);
      find_factors(kOfSquares, nullptr);
      sum<false, true>(kAll & ~kOfSquares);
    } else {
      sum<true, Pass != RowPass::value>(kAll);
    }
    find_factors(kAll, grads_ ? grads_->template mutable_data_ptr<double>() : nullptr);
    if (views_.output || views_.grad_input) {
      launch(op_.c_str(), spatial_write_kernel<C, Rectified, Pass>, device_, pieces_.blocks(), views_, pieces_,
             factors());
    }
    if (!grads_) return;
    launch("spatial_grads", spatial_grads_kernel<C>, device_, blocks_for(views_.channels, kSpatialThreads), views_,
           grads_->template mutable_data_ptr<double>());
  }

 private:
  C* factors() const { return factors_.template mutable_data_ptr<C>(); }
  double* partial() const { return partial_.template mutable_data_ptr<double>(); }

  template <bool Squares, bool Others>
  void sum(int32_t sums) {
    launch("spatial_sums", spatial_sums_kernel < C, Rectified && Others, Pass, Squares, Others >, device_,
           pieces_.blocks(), views_, pieces_, factors(), partial());
    if (pieces_.spans == 1) return;
    const int64_t items = views_.batch * views_.channels * kSpatialSums;
    launch("spatial_fold", spatial_fold_kernel, device_, blocks_for(items, kSpatialThreads), partial(), views_.batch,
           pieces_.spans, views_.channels, sums);
  }
  void find_factors(int32_t known, double* grads) {
    // Channels that are normalised by themselves are together only to fill a warp.
    const int64_t group = Norm::kTotals > 1 ? views_.group : kWarpSize;
    const int64_t groups = views_.batch * ((views_.channels + group - 1) / group);
    const Blocks blocks{(groups + kSpatialWarps - 1) / kSpatialWarps, dim3(kSpatialThreads, 1, 1)};
    launch("spatial_factors", spatial_factors_kernel<C, Norm>, device_, blocks, views_, norm_, pieces_.spans, group,
           known, Pass == RowPass::second, partial(), factors(), grads);
  }

  const std::string& op_;
  const DeviceOf device_;
  const SpatialViews<C> views_;
  const SpatialPieces pieces_;
  const Norm norm_;
  const Tensor partial_, factors_;
  std::optional<Tensor> grads_;
};

// What host entries that serve several devices call (kinds/spatial_norm.h).
struct SpatialOnCuda {
  template <class C, class Norm, bool Rectified, RowPass Pass>
  static void normalise(const char* name, const SpatialOperands& operands, double eps) {
    constexpr const char* kSuffix = Pass == RowPass::value      ? ""
                                    : Pass == RowPass::gradient ? "_backward"
                                                                : "_double_backward";
    const std::string op = std::string(name) + kSuffix;
    SpatialLaunches<C, Norm, Rectified, Pass>(op, operands, eps).run();
  }
};

}  // namespace handgrad
