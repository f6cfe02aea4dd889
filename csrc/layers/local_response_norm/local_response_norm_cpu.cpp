// Local response normalisation on the CPU.
//
// The work is cut into slabs (cpu/slabs.h), in which the sum over every window is a sum of shifted copies of one array.
// Zero channels in front of and behind the real ones spare it any border case. Nothing is kept from forward to backward
// but the input: the sums of squares cost less to compute than to load.
#include "abi/registration.h"
#include "cpu/slabs.h"
#include "local_response_norm_host.h"

namespace handgrad::local_response_norm {
namespace {

// sums[i] = the sum of `window` elements of `from`, `shift` elements apart. A group of them is held in registers while
// the window is walked: compiled apart, or the compiler forgets that they can be.
template <class C>
[[gnu::noinline]] void sum_shifted(const C* __restrict from, int64_t count, int64_t window, int64_t shift,
                                   C* __restrict sums) {
  for (int64_t i = 0; i < count; i += kSlabLanes) {
    C total[kSlabLanes] = {};
    for (int64_t j = 0; j < window; ++j) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kSlabLanes; ++lane) total[lane] += from[i + j * shift + lane];
    }
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kSlabLanes; ++lane) sums[i + lane] = total[lane];
  }
}

// sums[i] = the sum of `padded` over W(c), the window of the channel of element i.
template <class C>
void sum_over_window(const Slab<C>& slab, const Window& window, const C* padded, C* sums) {
  sum_shifted(padded - window.before * slab.width(), slab.count(), window.before + window.after + 1, slab.width(),
              sums);
}
// sums[i] = the sum of `padded` over W*(c), the channels whose window holds the channel of element i.
template <class C>
void sum_over_mirrored_window(const Slab<C>& slab, const Window& window, const C* padded, C* sums) {
  sum_shifted(padded - window.after * slab.width(), slab.count(), window.before + window.after + 1, slab.width(), sums);
}
// sums[i] = the sum of x^2 over W(c); `squares` is a padded buffer.
template <class C>
void sum_squares(const Slab<C>& slab, const Window& window, const C* x, C* squares, C* sums) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < slab.count(); ++i) squares[i] = x[i] * x[i];
  sum_over_window(slab, window, squares, sums);
}

// Calls body(norm) with the formula in the type that `input` is computed in.
template <class Body>
void with_formula_of(const Tensor& input, int64_t size, double alpha, double beta, double k, const Body& body) {
  dispatch_compute(kOp, input.scalar_type(),
                   [&](auto tag) { with_formula<typename decltype(tag)::type>(size, alpha, beta, k, body); });
}

Tensor local_response_norm_cpu(const Tensor& input,  // [N, C, *]
                               int64_t size, double alpha, double beta, double k) {
  check_arguments(input, size);
  const Tensor output = empty_in_layout_of(input);
  const ChannelTensor flat_input(input), flat_output(output);
  const Window window(size, flat_input.channels);

  with_formula_of(input, size, alpha, beta, k, [&](auto norm) {
    using C = decltype(norm.k);
    const SlabPlan plan(flat_input, window.padding(), sizeof(C));
    const StoredView<const C, 3> x_view = stored_view<C>(flat_input);
    const StoredView<C, 3> y_view = mutable_stored_view<C>(flat_output);
    for_each_slab<C>(plan, 3, [&](Slab<C>& slab) {
      C *x = slab.buffer(0), *squares = slab.padded_buffer(1), *y = slab.buffer(2);
      slab.load(x_view, x);
      sum_squares(slab, window, x, squares, y);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) y[i] = norm.value(x[i], norm.factors(y[i]));
      slab.store(y, y_view);
    });
  });
  return output;
}

Tensor local_response_norm_backward_cpu(const Tensor& grad_output,  // [N, C, *]
                                        const Tensor& input,        // [N, C, *]
                                        int64_t size, double alpha, double beta, double k,
                                        const std::vector<bool>& output_mask) {
  check_backward(grad_output, input, size);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (!wanted) return grad_input;
  const ChannelTensor flat_input(input), flat_grad(grad_output), flat_result(grad_input);
  const Window window(size, flat_input.channels);

  with_formula_of(input, size, alpha, beta, k, [&](auto norm) {
    using C = decltype(norm.k);
    const SlabPlan plan(flat_input, window.padding(), sizeof(C));
    const StoredView<const C, 3> x_view = stored_view<C>(flat_input), g_view = stored_view<C>(flat_grad);
    const StoredView<C, 3> result_view = mutable_stored_view<C>(flat_result);
    for_each_slab<C>(plan, 5, [&](Slab<C>& slab) {
      C *x = slab.buffer(0), *g = slab.buffer(1), *sums = slab.buffer(2), *shrink = slab.buffer(3);
      slab.load(x_view, x);
      slab.load(g_view, g);
      sum_squares(slab, window, x, slab.padded_buffer(4), sums);
      // The squares are no longer needed: their buffer is cleared and used again.
      C* s = slab.padded_buffer(4);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) {
        // Asked for twice and computed once: a variable for both would keep the compiler from vectorising the loop.
        const C sum = sums[i];
        shrink[i] = norm.factors(sum).shrink;
        s[i] = norm.s(g[i], x[i], norm.factors(sum));
      }
      sum_over_mirrored_window(slab, window, s, sums);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) g[i] = norm.grad_input(g[i], x[i], shrink[i], sums[i]);
      slab.store(g, result_view);
    });
  });
  return grad_input;
}

// The buffers of one slab in the double backward: x, v, d^-beta, 1 / d, u, and one with padding; where the gradient of
// the input is wanted, g and the sums of s and r too.
template <class C>
struct SecondBuffers {
  static constexpr int64_t kFew = 6, kAll = 9;
  C *x, *v, *shrink, *inverse, *u, *g, *sum_s, *sum_r;

  SecondBuffers(Slab<C>& slab, bool all)
      : x(slab.buffer(1)),
        v(slab.buffer(2)),
        shrink(slab.buffer(3)),
        inverse(slab.buffer(4)),
        u(slab.buffer(5)),
        g(all ? slab.buffer(6) : nullptr),
        sum_s(all ? slab.buffer(7) : nullptr),
        sum_r(all ? slab.buffer(8) : nullptr) {}
};

// Fills sum_s and sum_r, given all others.
template <class C, class Norm>
void sum_s_and_r(Slab<C>& slab, const Window& window, const Norm& norm, const SecondBuffers<C>& b, C* padded) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < slab.count(); ++i) padded[i] = norm.s(b.g[i], b.x[i], {b.shrink[i], b.inverse[i]});
  sum_over_mirrored_window(slab, window, padded, b.sum_s);
  HANDGRAD_SIMD
  for (int64_t i = 0; i < slab.count(); ++i) {
    padded[i] = norm.r(b.v[i], b.g[i], b.x[i], {b.shrink[i], b.inverse[i]}, b.u[i]);
  }
  sum_over_mirrored_window(slab, window, padded, b.sum_r);
}

// Fills shrink, inverse and u, given x and v.
template <class C, class Norm>
void sum_squares_and_vx(Slab<C>& slab, const Window& window, const Norm& norm, const SecondBuffers<C>& b) {
  sum_squares(slab, window, b.x, slab.padded_buffer(0), b.inverse);
  C* padded = slab.padded_buffer(0);
  HANDGRAD_SIMD
  for (int64_t i = 0; i < slab.count(); ++i) {
    const C sum = b.inverse[i];
    b.shrink[i] = norm.factors(sum).shrink;
    b.inverse[i] = norm.factors(sum).inverse;
    padded[i] = b.v[i] * b.x[i];
  }
  sum_over_window(slab, window, padded, b.u);
}

std::tuple<Tensor, Tensor> local_response_norm_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, *]
    const Tensor& grad_output,                     // [N, C, *]
    const Tensor& input,                           // [N, C, *]
    int64_t size, double alpha, double beta, double k, const std::vector<bool>& output_mask) {
  const DoubleBackward call(grad_grad_input, grad_output, input, size, output_mask);
  if (call.is_done()) return {call.grad_grad_output, call.grad_input};
  const bool first = call.wants_grad_grad_output, second = call.wants_grad_input;
  // grad_output is read for grad_input alone.
  const ChannelTensor flat_input(input), flat_v(*grad_grad_input), flat_grad(second ? grad_output : input);
  const ChannelTensor flat_first(first ? call.grad_grad_output : call.grad_input);
  const ChannelTensor flat_second(second ? call.grad_input : call.grad_grad_output);
  const Window window(size, flat_input.channels);

  with_formula_of(input, size, alpha, beta, k, [&](auto norm) {
    using C = decltype(norm.k);
    const SlabPlan plan(flat_input, window.padding(), sizeof(C));
    const StoredView<const C, 3> x_view = stored_view<C>(flat_input), g_view = stored_view<C>(flat_grad);
    const StoredView<const C, 3> v_view = stored_view<C>(flat_v);
    const StoredView<C, 3> first_view = mutable_stored_view<C>(flat_first);
    const StoredView<C, 3> second_view = mutable_stored_view<C>(flat_second);
    const int64_t buffers = second ? SecondBuffers<C>::kAll : SecondBuffers<C>::kFew;
    for_each_slab<C>(plan, buffers, [&](Slab<C>& slab) {
      const SecondBuffers<C> b(slab, second);
      slab.load(x_view, b.x);
      slab.load(v_view, b.v);
      sum_squares_and_vx(slab, window, norm, b);
      if (second) {
        slab.load(g_view, b.g);
        sum_s_and_r(slab, window, norm, b, slab.padded_buffer(0));
        HANDGRAD_SIMD
        for (int64_t i = 0; i < slab.count(); ++i) {
          b.sum_s[i] = norm.second_grad_input(b.v[i], b.g[i], b.x[i], {b.shrink[i], b.inverse[i]}, b.u[i], b.sum_s[i],
                                              b.sum_r[i]);
        }
        slab.store(b.sum_s, second_view);
      }
      if (first) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < slab.count(); ++i) {
          b.u[i] = norm.grad_grad_output(b.v[i], b.x[i], {b.shrink[i], b.inverse[i]}, b.u[i]);
        }
        slab.store(b.u, first_view);
      }
    });
  });
  return {call.grad_grad_output, call.grad_input};
}

}  // namespace
}  // namespace handgrad::local_response_norm

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::local_response_norm::local_response_norm_cpu>(library, "local_response_norm");
  handgrad::implement<handgrad::local_response_norm::local_response_norm_backward_cpu>(library,
                                                                                       "_local_response_norm_backward");
  handgrad::implement<handgrad::local_response_norm::local_response_norm_double_backward_cpu>(
      library, "_local_response_norm_double_backward");
}
