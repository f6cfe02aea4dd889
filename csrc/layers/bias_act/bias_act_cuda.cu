// An activation behind a bias on CUDA devices.
//
// A warp takes a span of the positions of one channel, a position to a lane, or of 32 channels, a channel to a lane,
// whichever lie densely in memory: its bias stays in a register, and so does the sum of what it writes. Loads of four
// positions are under way at once. Sums of spans go to memory, in double, and a warp for each channel adds them up, in
// an order that depends on the shape alone.
#include "bias_act_host.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"

namespace handgrad::bias_act {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
// Positions that a lane takes at once; those of a span, for each lane, at least; spans of a channel at most.
constexpr int64_t kBatch = 4, kShortest = 32, kMostSpans = 8192;

// All activations in one, for double: on most devices that is slow enough to hide the choice.
template <class T>
struct AnyFormula {
  static constexpr bool is_curved = true;
  Numbers numbers;

  explicit AnyFormula(const Numbers& numbers) : numbers(numbers) {}
  template <class Body>
  __device__ T choose(const Body& body) const {
    switch (numbers.act) {
      case kRelu: return body(Formula<T, Relu<T>>(numbers));
      case kLrelu: return body(Formula<T, Lrelu<T>>(numbers));
      case kTanh: return body(Formula<T, Tanh<T>>(numbers));
      case kSigmoid: return body(Formula<T, Logistic<T>>(numbers));
      case kElu:
      case kSelu: return body(Formula<T, Elu<T>>(numbers));
      case kSoftplus: return body(Formula<T, Softplus<T>>(numbers));
      case kSwish: return body(Formula<T, Swish<T>>(numbers));
      default: return body(Formula<T, Linear<T>>(numbers));
    }
  }
  __device__ T value(T z) const {
    return choose([&](const auto& formula) { return formula.value(z); });
  }
  __device__ T pull(T z, T g) const {
    return choose([&](const auto& formula) { return formula.pull(z, g); });
  }
  __device__ T turn(T z, T g, T u) const {
    return choose([&](const auto& formula) { return formula.turn(z, g, u); });
  }
};

struct Spans {
  bool rows;
  int64_t columns, per_channel, span, count;  // columns: of lanes; span: positions, of all samples

  template <class C>
  explicit Spans(const Views<C>& views) : rows(views.channels_innermost()) {
    const int64_t lanes = rows ? 1 : kWarpSize, all = views.batch * views.positions;
    columns = rows ? (views.channels + kWarpSize - 1) / kWarpSize : views.channels;
    const int64_t shortest = kShortest * lanes, step = kBatch * lanes;
    span = std::max(shortest, ((all + kMostSpans - 1) / kMostSpans + step - 1) / step * step);
    per_channel = (all + span - 1) / span;
    count = columns * per_channel;
  }
  Blocks blocks() const { return {(count + kWarps - 1) / kWarps, dim3(kThreads, 1, 1)}; }
};

// Positions [begin, end) of all samples, `step` apart: sample and position of the next.
struct Walk {
  int64_t n, p;

  __device__ Walk(int64_t begin, int64_t positions) : n(begin / positions), p(begin - n * positions) {}
  __device__ void advance(int64_t step, int64_t positions) {
    p += step;
#pragma unroll 1
    while (p >= positions) p -= positions, ++n;
  }
};

// What a lane reads and writes of a tensor: its channel of sample 0.
template <class P>
__device__ __forceinline__ Stored<P> channel_of(const StoredView<P, 3>& view, int64_t c) {
  return view ? view.first + c * view.strides[1] : view.first;
}

template <class C, int64_t Lanes>
__device__ __forceinline__ void load_lanes(const Stored<const C>& from, const int64_t (&strides)[3],
                                           const int64_t (&n)[Lanes], const int64_t (&p)[Lanes], int64_t count,
                                           C (&to)[Lanes]) {
  dispatch_storage<C>(from.dtype, [&](auto tag) {
    const auto* const own = from.template as<typename decltype(tag)::type>();
#pragma unroll
    for (int64_t k = 0; k < Lanes; ++k) {
      to[k] = k < count ? widen(load_constant(own + n[k] * strides[0] + p[k] * strides[2])) : C(0);
    }
  });
}

template <class C, int64_t Lanes>
__device__ __forceinline__ void store_lanes(const C (&from)[Lanes], const Stored<C>& to, const int64_t (&strides)[3],
                                            const int64_t (&n)[Lanes], const int64_t (&p)[Lanes], int64_t count) {
  dispatch_storage<C>(to.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* const own = to.template as<T>();
#pragma unroll
    for (int64_t k = 0; k < Lanes; ++k) {
      if (k < count) store(own + n[k] * strides[0] + p[k] * strides[2], narrow<T>(from[k]));
    }
  });
}

// partial[channel, span]: the sums of what is written last; null if nobody asks for them.
template <class C, class F, Pass kPass>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    elements_kernel(Views<C> views, Spans spans, F formula, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  constexpr int64_t kLanes = std::is_same_v<C, double> ? 1 : kBatch;
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const int64_t column = index / spans.per_channel, span = index - column * spans.per_channel;
  const int64_t c = spans.rows ? column * kWarpSize + lane : column;
  const bool is_there = index < spans.count && c < views.channels;
  const int64_t all = views.batch * views.positions, step = spans.rows ? 1 : kWarpSize;
  const int64_t first = span * spans.span, rest = all - first;
  const int64_t end = is_there ? first + (rest < spans.span ? rest : spans.span) : 0;
  double total = 0;
  if (is_there) {
    const C b = views.b ? load_constant(views.b.at(c)) : C(-0.0);  // x - 0 is x, of both signs of 0
    const C w = kPass != Pass::value && views.w ? load_constant(views.w.at(c)) : C(0);
    const int64_t begin = first + (spans.rows ? 0 : lane);
    Walk walk(begin, views.positions);
#pragma unroll 1
    for (int64_t m = begin; m < end; m += kLanes * step) {
      const int64_t left = (end - m + step - 1) / step;
      int64_t n[kLanes], p[kLanes];
#pragma unroll
      for (int64_t k = 0; k < kLanes; ++k) {
        n[k] = walk.n, p[k] = walk.p;
        walk.advance(step, views.positions);
      }
      C x[kLanes], u[kLanes] = {}, g[kLanes] = {}, own[kLanes] = {}, other[kLanes] = {};
      load_lanes(channel_of(views.x, c), views.x.strides, n, p, left, x);
      if (kPass != Pass::value && views.g) load_lanes(channel_of(views.g, c), views.g.strides, n, p, left, u);
      if constexpr (kPass == Pass::second && F::is_curved) {
        load_lanes(channel_of(views.grad_output, c), views.grad_output.strides, n, p, left, g);
      }
#pragma unroll
      for (int64_t k = 0; k < kLanes; ++k) {
        const C z = x[k] + b, along = u[k] + w;
        own[k] = kPass == Pass::value ? formula.value(z) : formula.pull(z, along);
        if constexpr (kPass == Pass::second) other[k] = formula.turn(z, g[k], along);
      }
      if (views.first) store_lanes(own, channel_of(views.first, c), views.first.strides, n, p, left);
      if constexpr (kPass == Pass::second) {
        if (views.second) store_lanes(other, channel_of(views.second, c), views.second.strides, n, p, left);
      }
      if (kPass != Pass::value && partial) {
        C sum = 0;
#pragma unroll
        for (int64_t k = 0; k < kLanes; ++k) sum += k < left ? (kPass == Pass::second ? other[k] : own[k]) : C(0);
        total += static_cast<double>(sum);
      }
    }
  }
  if (kPass == Pass::value || !partial) return;
  if (!spans.rows) total = warp_sum(total);
  if (is_there && (spans.rows || lane == 0)) store(partial + c * spans.per_channel + span, total);
}

// A warp for each channel: the sums of its spans.
template <class C>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    sums_kernel(const double* partial, int64_t per_channel, int64_t channels, C* sums) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t c = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  double total = 0;
  if (c < channels) {
#pragma unroll 4
    for (int64_t k = lane; k < per_channel; k += kWarpSize) total += load(partial + c * per_channel + k);
  }
  total = warp_sum(total);
  if (c < channels && lane == 0) store(sums + c, static_cast<C>(total));
}

template <class C, Pass kPass>
void run_pass(const Operands& operands) {
  const Views<C> views(operands);
  const Spans spans(views);
  const DeviceOf device(operands.x.tensor);
  std::optional<Tensor> partial;
  if (views.sums) partial = empty_vector<double>(views.channels * spans.per_channel, operands.x.tensor);
  double* const to = partial ? partial->mutable_data_ptr<double>() : nullptr;
  if constexpr (std::is_same_v<C, double>) {
    launch(kOp, elements_kernel<C, AnyFormula<C>, kPass>, device, spans.blocks(), views, spans,
           AnyFormula<C>(operands.numbers), to);
  } else {
    with_formula<C>(operands.numbers.act, [&](auto tag) {
      using F = typename decltype(tag)::type;
      launch(kOp, elements_kernel<C, F, kPass>, device, spans.blocks(), views, spans, F(operands.numbers), to);
    });
  }
  if (!partial) return;
  const Blocks blocks{(views.channels + kWarps - 1) / kWarps, dim3(kThreads, 1, 1)};
  launch(kOp, sums_kernel<C>, device, blocks, to, spans.per_channel, views.channels, views.sums);
}

struct OnCuda {
  template <class C>
  static void run(Pass pass, const Operands& operands) {
    switch (pass) {
      case Pass::value: return run_pass<C, Pass::value>(operands);
      case Pass::pull: return run_pass<C, Pass::pull>(operands);
      case Pass::second: return run_pass<C, Pass::second>(operands);
    }
  }
};

}  // namespace
}  // namespace handgrad::bias_act

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::bias_act::implement<handgrad::bias_act::OnCuda>(library);
}
