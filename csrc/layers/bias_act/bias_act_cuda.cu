// An activation behind a bias on CUDA devices.
//
// The work is cut by cuda/channel_spans.cuh: the bias of a lane stays in a register, and so does the sum of what it
// writes. Loads of four positions are under way at once.
#include "bias_act_host.h"
#include "cuda/channel_spans.cuh"

namespace handgrad::bias_act {
namespace {

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
      case kLrelu: return body(Formula<T, LeakyRelu<T>>(numbers));
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

// partial: the sums of what is written last; null if nobody asks for them.
template <class C, class F, Pass kPass>
__global__ void __launch_bounds__(kSpanThreads, kMinBlocks)
    elements_kernel(Views<C> views, ChannelSpans spans, F formula, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kSpanThreads);
  constexpr int64_t kLanes = std::is_same_v<C, double> ? 1 : kSpanBatch;
  const ChannelSpan own(spans);
  double total = 0;
  if (own.is_there) {
    const C b = views.b ? load_constant(views.b.at(own.c)) : C(-0.0);  // x - 0 is x, of both signs of 0
    const C w = kPass != Pass::value && views.w ? load_constant(views.w.at(own.c)) : C(0);
    SpanWalk walk(spans, own);
#pragma unroll 1
    for (int64_t m = own.begin; m < own.end; m += kLanes * own.step) {
      const int64_t left = (own.end - m + own.step - 1) / own.step;
      SpanPositions<kLanes> at;
      walk.next(at);
      C x[kLanes], u[kLanes] = {}, g[kLanes] = {}, first[kLanes] = {}, second[kLanes] = {};
      load_span(views.x, own.c, at, left, x);
      if (kPass != Pass::value && views.g) load_span(views.g, own.c, at, left, u);
      if constexpr (kPass == Pass::second && F::is_curved) load_span(views.grad_output, own.c, at, left, g);
#pragma unroll
      for (int64_t k = 0; k < kLanes; ++k) {
        const C z = x[k] + b, along = u[k] + w;
        first[k] = kPass == Pass::value ? formula.value(z) : formula.pull(z, along);
        if constexpr (kPass == Pass::second) second[k] = formula.turn(z, g[k], along);
      }
      if (views.first) store_span(first, views.first, own.c, at, left);
      if constexpr (kPass == Pass::second) {
        if (views.second) store_span(second, views.second, own.c, at, left);
      }
      if (kPass == Pass::value || !partial) continue;
      C sum = 0;
#pragma unroll
      for (int64_t k = 0; k < kLanes; ++k) sum += k < left ? (kPass == Pass::second ? second[k] : first[k]) : C(0);
      total += static_cast<double>(sum);
    }
  }
  if (kPass != Pass::value && partial) own.store_sum(spans, total, partial);
}

template <class C, Pass kPass>
void run_pass(const Operands& operands) {
  const Views<C> views(operands);
  const ChannelSpans spans(views.batch, views.channels, views.positions, views.channels_innermost());
  const DeviceOf device(operands.x.tensor);
  std::optional<SpanSums<C>> sums;
  if (views.sums) sums.emplace(spans, operands.x.tensor);
  double* const partial = sums ? sums->partial() : nullptr;
  if constexpr (std::is_same_v<C, double>) {
    launch(kOp, elements_kernel<C, AnyFormula<C>, kPass>, device, spans.blocks(), views, spans,
           AnyFormula<C>(operands.numbers), partial);
  } else {
    with_formula<C>(operands.numbers.act, [&](auto tag) {
      using F = typename decltype(tag)::type;
      launch(kOp, elements_kernel<C, F, kPass>, device, spans.blocks(), views, spans, F(operands.numbers), partial);
    });
  }
  if (sums) sums->finish(kOp, device, views.sums);
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
