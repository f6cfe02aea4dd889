// Local response normalisation on the CPU.
//
// The work is cut into slabs: all channels of a few neighbouring positions, small enough for the cache. A slab is one
// flat array in which channel c of position p stands at c * width + p, so "the next channel" is always `width` elements
// on, and the sum over every window is a sum of shifted copies of one array. Zero channels in front of and behind the
// real ones spare it any border case. channels_last memory is the same thing with a width of 1, read without
// rearranging.
//
// Nothing is kept from forward to backward but the input: the sums of squares cost less to compute than to load.
#include "abi/registration.h"
#include "cpu/parallel.h"
#include "local_response_norm_host.h"
#include "math/convert.h"

namespace handgrad {
namespace {

using namespace local_response_norm;

// Bytes of one array of a slab. The double backward has eight such arrays at work, in a second-level cache of 256 KiB.
constexpr int64_t kSlabBytes = 24 * 1024;
// Elements of a window sum that are held in registers while the window is walked.
constexpr int64_t kLanes = 64;

// How the work on one input is cut.
struct Plan {
  int64_t channels, positions, width, slabs_per_image, slabs;
  // The window of channel c is [c - before, c + after]; `padding` zero channels stand on either side.
  int64_t before, after, padding;

  Plan(const Tensor& input, const Layout& layout, int64_t size, int64_t element_bytes) {
    const Sizes sizes = input.sizes();
    channels = sizes[1];
    positions = 1;
    for (size_t d = 2; d < sizes.size(); ++d) positions *= sizes[d];
    if (layout.channel_stride == 1 && layout.position_stride != 1) {
      width = 1;
    } else {
      // Whole cache lines of 64 bytes, as many as fit.
      const int64_t line = 64 / element_bytes;
      const int64_t fitting = kSlabBytes / element_bytes / std::max<int64_t>(1, channels) / line * line;
      width = std::max<int64_t>(1, std::min(positions, std::max(line, fitting)));
    }
    slabs_per_image = (positions + width - 1) / width;
    slabs = input.numel() == 0 ? 0 : sizes[0] * slabs_per_image;
    // torch's window: size / 2 channels before, the rest after. What lies beyond all channels adds nothing.
    before = std::min(size / 2, channels);
    after = std::min((size - 1) / 2, channels);
    padding = std::max(before, after);
  }
};

// One slab of one thread: which positions it covers, and the buffers they are worked on in.
template <class C>
class Slab {
 public:
  Slab(const Plan& plan, int buffers) : plan_(plan) {
    const int64_t elements = (plan.channels + 2 * plan.padding) * plan.width;
    // Room for the last, partly used group of lanes, then up to whole cache lines.
    pitch_ = (elements + kLanes + 63) / 64 * 64;
    memory_.resize(static_cast<size_t>(pitch_ * buffers));
  }

  void move_to(int64_t index) {
    image_ = index / plan_.slabs_per_image;
    first_ = index % plan_.slabs_per_image * plan_.width;
    width_ = std::min(plan_.width, plan_.positions - first_);
  }

  int64_t count() const { return plan_.channels * width_; }

  C* buffer(int which) { return memory_.data() + which * pitch_; }
  // A buffer with zero channels around the returned first real element.
  C* padded_buffer(int which) {
    C* begin = buffer(which);
    const int64_t pad = plan_.padding * width_;
    std::fill(begin, begin + pad, C(0));
    std::fill(begin + pad + count(), begin + pitch_, C(0));
    return begin + pad;
  }

  template <class T>
  void load(const Operand<T>& from, C* to) const {
    const Layout& at = from.layout;
    const T* base = from.data + image_ * at.batch_stride + first_ * at.position_stride;
    if (width_ == 1) {
      load_run(base, at.channel_stride, plan_.channels, to);
    } else {
      for (int64_t c = 0; c < plan_.channels; ++c) {
        load_run(base + c * at.channel_stride, at.position_stride, width_, to + c * width_);
      }
    }
  }

  template <class T>
  void store(const C* from, T* to, const Layout& at) const {
    T* base = to + image_ * at.batch_stride + first_ * at.position_stride;
    if (width_ == 1) {
      store_run(from, plan_.channels, base, at.channel_stride);
    } else {
      for (int64_t c = 0; c < plan_.channels; ++c) {
        store_run(from + c * width_, width_, base + c * at.channel_stride, at.position_stride);
      }
    }
  }

  // sums[i] = the sum of `padded` over W(c), the window of the channel of element i.
  void sum_over_window(const C* padded, C* sums) const { sum_shifted(padded - plan_.before * width_, sums); }
  // sums[i] = the sum of `padded` over W*(c), the channels whose window holds the channel of element i.
  void sum_over_mirrored_window(const C* padded, C* sums) const { sum_shifted(padded - plan_.after * width_, sums); }

 private:
  void sum_shifted(const C* __restrict from, C* __restrict sums) const {
    const int64_t n = count(), window = plan_.before + plan_.after + 1, shift = width_;
    for (int64_t i = 0; i < n; i += kLanes) {
      C total[kLanes] = {};
      for (int64_t j = 0; j < window; ++j) {
        HANDGRAD_SIMD
        for (int64_t lane = 0; lane < kLanes; ++lane) total[lane] += from[i + j * shift + lane];
      }
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kLanes; ++lane) sums[i + lane] = total[lane];
    }
  }

  const Plan& plan_;
  int64_t image_ = 0, first_ = 0, width_ = 0, pitch_ = 0;
  std::vector<C> memory_;
};

// work(slab) for every slab of the plan, on all threads; `buffers` is how many arrays a slab needs.
template <class C, class Work>
void for_each_slab(const Plan& plan, int buffers, const Work& work) {
  parallel_for(plan.slabs, plan.channels * plan.width, [&](int64_t begin, int64_t end) {
    Slab<C> slab(plan, buffers);
    for (int64_t index = begin; index < end; ++index) {
      slab.move_to(index);
      work(slab);
    }
  });
}

// sums[i] = the sum of squares over the window of element i; `squares` is a padded buffer.
template <class C>
void sum_squares(const Slab<C>& slab, const C* x, C* squares, C* sums) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < slab.count(); ++i) squares[i] = x[i] * x[i];
  slab.sum_over_window(squares, sums);
}

Tensor local_response_norm_cpu(const Tensor& input, int64_t size, double alpha, double beta, double k) {
  check_arguments(input, size);
  const Tensor output = empty_output(input);

  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Operand<T> in(input);
    const Plan plan(input, in.layout, size, sizeof(C));
    T* out = output.mutable_data_ptr<T>();
    const Layout out_layout = *as_layout(output);

    for_each_slab<C>(plan, 3, [&](Slab<C>& slab) {
      C *x = slab.buffer(0), *squares = slab.padded_buffer(1), *y = slab.buffer(2);
      slab.load(in, x);
      sum_squares(slab, x, squares, y);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) y[i] = norm.value(x[i], norm.factors(y[i]));
      slab.store(y, out, out_layout);
    });
  });
  return output;
}

Tensor local_response_norm_backward_cpu(const Tensor& grad_output, const Tensor& input, int64_t size, double alpha,
                                        double beta, double k, const std::vector<bool>& output_mask) {
  check_backward(grad_output, input, size);
  if (!as_output_mask<1>(kOp, output_mask)[0]) return empty_placeholder(input);
  const Tensor grad_input = empty_output(input);

  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Operand<T> in(input), grad(grad_output);
    const Plan plan(input, in.layout, size, sizeof(C));
    T* out = grad_input.mutable_data_ptr<T>();
    const Layout out_layout = *as_layout(grad_input);

    for_each_slab<C>(plan, 5, [&](Slab<C>& slab) {
      C *x = slab.buffer(0), *g = slab.buffer(1), *sums = slab.buffer(2), *shrink = slab.buffer(3);
      slab.load(in, x);
      slab.load(grad, g);
      sum_squares(slab, x, slab.padded_buffer(4), sums);
      // The squares have served; the same padded buffer now holds what each channel sends to its window.
      C* sent = slab.padded_buffer(4);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) {
        // Asked for twice and computed once: a variable for both would keep the compiler from vectorising the loop.
        const C sum = sums[i];
        shrink[i] = norm.factors(sum).shrink;
        sent[i] = norm.sent(g[i], x[i], norm.factors(sum));
      }
      slab.sum_over_mirrored_window(sent, sums);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) g[i] = norm.grad_input(g[i], x[i], shrink[i], sums[i]);
      slab.store(g, out, out_layout);
    });
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> local_response_norm_double_backward_cpu(const std::optional<Tensor>& grad_grad_input,
                                                                   const Tensor& grad_output, const Tensor& input,
                                                                   int64_t size, double alpha, double beta, double k,
                                                                   const std::vector<bool>& output_mask) {
  check_double_backward(grad_grad_input, grad_output, input, size);
  const DoubleBackward call(grad_grad_input, input, as_output_mask<2>(kOp, output_mask));
  if (call.nothing_to_do()) return {call.grad_grad_output, call.grad_input};

  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Operand<T> in(input), grad_grad(*grad_grad_input);
    // Read for grad_input alone.
    const Operand<T> grad(call.wants_grad_input ? grad_output : input);
    const Plan plan(input, in.layout, size, sizeof(C));
    const Layout out_layout = *as_layout(call.wants_grad_input ? call.grad_input : call.grad_grad_output);

    for_each_slab<C>(plan, call.wants_grad_input ? 9 : 6, [&](Slab<C>& slab) {
      C *x = slab.buffer(1), *v = slab.buffer(2), *inverse = slab.buffer(3), *shrink = slab.buffer(4),
        *sum_vx = slab.buffer(5);
      slab.load(in, x);
      slab.load(grad_grad, v);
      sum_squares(slab, x, slab.padded_buffer(0), inverse);
      C* padded = slab.padded_buffer(0);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < slab.count(); ++i) {
        const C sum = inverse[i];
        shrink[i] = norm.factors(sum).shrink;
        inverse[i] = norm.factors(sum).inverse;
        padded[i] = v[i] * x[i];
      }
      slab.sum_over_window(padded, sum_vx);
      if (call.wants_grad_input) {
        C *g = slab.buffer(6), *sum_sent = slab.buffer(7), *sum_sent_twice = slab.buffer(8);
        slab.load(grad, g);
        HANDGRAD_SIMD
        for (int64_t i = 0; i < slab.count(); ++i) padded[i] = norm.sent(g[i], x[i], {shrink[i], inverse[i]});
        slab.sum_over_mirrored_window(padded, sum_sent);
        HANDGRAD_SIMD
        for (int64_t i = 0; i < slab.count(); ++i) {
          padded[i] = norm.sent_twice(v[i], g[i], x[i], {shrink[i], inverse[i]}, sum_vx[i]);
        }
        slab.sum_over_mirrored_window(padded, sum_sent_twice);
        HANDGRAD_SIMD
        for (int64_t i = 0; i < slab.count(); ++i) {
          sum_sent[i] = norm.grad_input_twice(v[i], g[i], x[i], {shrink[i], inverse[i]}, sum_vx[i], sum_sent[i],
                                              sum_sent_twice[i]);
        }
        slab.store(sum_sent, call.grad_input.template mutable_data_ptr<T>(), out_layout);
      }
      if (call.wants_grad_grad_output) {
        HANDGRAD_SIMD
        for (int64_t i = 0; i < slab.count(); ++i) {
          sum_vx[i] = norm.grad_grad_output(v[i], x[i], {shrink[i], inverse[i]}, sum_vx[i]);
        }
        slab.store(sum_vx, call.grad_grad_output.template mutable_data_ptr<T>(), out_layout);
      }
    });
  });
  return {call.grad_grad_output, call.grad_input};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::local_response_norm_cpu>(library, "local_response_norm");
  handgrad::implement<handgrad::local_response_norm_backward_cpu>(library, "_local_response_norm_backward");
  handgrad::implement<handgrad::local_response_norm_double_backward_cpu>(library,
                                                                         "_local_response_norm_double_backward");
}
