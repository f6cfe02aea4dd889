// Local response normalisation on CUDA devices.
//
// A block takes a slab, all channels of a few neighbouring positions of one image, into scratch memory: each element is
// read from global memory once, and the windows are summed from the copy. The scratch is shared memory; where a slab of
// even one position is too large for that, it is a piece of global memory that belongs to the block.
//
// Threads walk a slab along whichever of channels and positions lies densely in memory, so that a warp reads whole
// sectors in NCHW and in channels_last alike.
#include <algorithm>

#include "access.cuh"
#include "launch.cuh"
#include "local_response_norm_host.h"

namespace handgrad {
namespace {

using namespace local_response_norm;

constexpr int kThreads = 256;
// So many blocks share scratch in global memory, each taking slab after slab.
constexpr int64_t kGlobalScratchBlocks = 512;

// The cut of the work, and how scratch arrays are laid out.
struct SlabPlan {
  int64_t channels, positions, slabs_per_image, slabs;
  int width;
  // Elements of one scratch array, and what separates neighbours in it.
  int64_t pitch, channel_step, position_step;
  // The window of channel c is [c - before, c + after], clipped to the channels there are.
  int64_t before, after;
  bool channels_innermost;
};

template <class C>
struct Slab {
  const SlabPlan& plan;
  C* scratch;
  int64_t image, first;
  int width;

  __device__ Slab(const SlabPlan& plan, int64_t index, C* scratch) : plan(plan), scratch(scratch) {
    image = index / plan.slabs_per_image;
    first = index % plan.slabs_per_image * plan.width;
    const int64_t left = plan.positions - first;
    width = left < plan.width ? static_cast<int>(left) : plan.width;
  }

  __device__ C* array(int which) const { return scratch + which * plan.pitch; }

  template <class T>
  __device__ T* global(T* base, const Layout& layout, int64_t c, int p) const {
    return base + image * layout.batch_stride + c * layout.channel_stride + (first + p) * layout.position_stride;
  }

  // body(channel, position, place in a scratch array) for each element, spread over the threads of the block.
  template <class Body>
  __device__ void for_each(const Body& body) const {
    if (plan.channels_innermost) {
      for (int p = threadIdx.y; p < width; p += blockDim.y) {
        for (int64_t c = threadIdx.x; c < plan.channels; c += blockDim.x) {
          body(c, p, c * plan.channel_step + p * plan.position_step);
        }
      }
    } else {
      for (int64_t c = threadIdx.y; c < plan.channels; c += blockDim.y) {
        for (int p = threadIdx.x; p < width; p += blockDim.x)
          body(c, p, c * plan.channel_step + p * plan.position_step);
      }
    }
  }

  // The sum of term(place) over the channels from c - back to c + ahead, clipped, at the position of `place`.
  template <class Term>
  __device__ C sum(int64_t c, int64_t place, int64_t back, int64_t ahead, const Term& term) const {
    const int64_t low = c < back ? -c : -back, left = plan.channels - 1 - c, high = left < ahead ? left : ahead;
    C total = 0;
    for (int64_t j = low; j <= high; ++j) total += term(place + j * plan.channel_step);
    return total;
  }
  template <class Term>
  __device__ C over_window(int64_t c, int64_t place, const Term& term) const {
    return sum(c, place, plan.before, plan.after, term);
  }
  template <class Term>
  __device__ C over_mirrored_window(int64_t c, int64_t place, const Term& term) const {
    return sum(c, place, plan.after, plan.before, term);
  }
};

// Runs body(slab) for the slabs of this block; no thread begins the next before all have left the last.
template <class C, class Body>
__device__ void for_each_slab(const SlabPlan& plan, int arrays, C* global_scratch, C* shared_scratch,
                              const Body& body) {
  C* scratch = global_scratch ? global_scratch + int64_t{blockIdx.x} * arrays * plan.pitch : shared_scratch;
  for (int64_t index = blockIdx.x; index < plan.slabs; index += gridDim.x) {
    body(Slab<C>(plan, index, scratch));
    __syncthreads();
  }
}

template <class T, class Norm>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_kernel(Norm norm, SlabPlan plan, const T* input, Layout in, T* output, Layout out,
                               Compute<T>* global_scratch) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  for_each_slab<C>(plan, 1, global_scratch, shared, [&](const Slab<C>& slab) {
    C* x = slab.array(0);
    slab.for_each([&](int64_t c, int p, int64_t at) { x[at] = widen(load(slab.global(input, in, c, p))); });
    __syncthreads();
    slab.for_each([&](int64_t c, int p, int64_t at) {
      const C squares = slab.over_window(c, at, [&](int64_t j) { return x[j] * x[j]; });
      store(slab.global(output, out, c, p), narrow<T>(norm.value(x[at], norm.denominator(squares))));
    });
  });
}

template <class T, class Norm>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_backward_kernel(Norm norm, SlabPlan plan, const T* input, Layout in, const T* grad_output,
                                        Layout grad, T* grad_input, Layout out, Compute<T>* global_scratch) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  for_each_slab<C>(plan, 3, global_scratch, shared, [&](const Slab<C>& slab) {
    C *x = slab.array(0), *sent = slab.array(1), *direct = slab.array(2);
    slab.for_each([&](int64_t c, int p, int64_t at) { x[at] = widen(load(slab.global(input, in, c, p))); });
    __syncthreads();
    slab.for_each([&](int64_t c, int p, int64_t at) {
      const C g = widen(load(slab.global(grad_output, grad, c, p)));
      const C d = norm.denominator(slab.over_window(c, at, [&](int64_t j) { return x[j] * x[j]; }));
      const C shrink = norm.shrink(d);
      sent[at] = norm.sent(g, x[at], shrink, d);
      // g and shrink are needed once more, and only as this product.
      direct[at] = g * shrink;
    });
    __syncthreads();
    slab.for_each([&](int64_t c, int p, int64_t at) {
      const C sum = slab.over_mirrored_window(c, at, [&](int64_t j) { return sent[j]; });
      store(slab.global(grad_input, out, c, p), narrow<T>(norm.grad_input(direct[at], x[at], C(1), sum)));
    });
  });
}

template <class T, class Norm>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_double_backward_kernel(Norm norm, SlabPlan plan, const T* input, Layout in,
                                               const T* grad_output, Layout grad, const T* grad_grad_input,
                                               Layout grad_grad, T* grad_grad_output, T* grad_input, Layout out,
                                               Compute<T>* global_scratch) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  for_each_slab<C>(plan, 4, global_scratch, shared, [&](const Slab<C>& slab) {
    C *x = slab.array(0), *vx = slab.array(1), *sent = slab.array(2), *sent_twice = slab.array(3);
    slab.for_each([&](int64_t c, int p, int64_t at) {
      x[at] = widen(load(slab.global(input, in, c, p)));
      vx[at] = x[at] * widen(load(slab.global(grad_grad_input, grad_grad, c, p)));
    });
    __syncthreads();
    // The sums over windows are taken again where they are needed again: cheaper than two more arrays.
    const auto denominator = [&](int64_t c, int64_t at) {
      return norm.denominator(slab.over_window(c, at, [&](int64_t j) { return x[j] * x[j]; }));
    };
    const auto sum_of_vx = [&](int64_t c, int64_t at) {
      return slab.over_window(c, at, [&](int64_t j) { return vx[j]; });
    };
    slab.for_each([&](int64_t c, int p, int64_t at) {
      const C g = widen(load(slab.global(grad_output, grad, c, p)));
      const C v = widen(load(slab.global(grad_grad_input, grad_grad, c, p)));
      const C d = denominator(c, at), shrink = norm.shrink(d);
      sent[at] = norm.sent(g, x[at], shrink, d);
      sent_twice[at] = norm.sent_twice(v, g, x[at], shrink, d, sum_of_vx(c, at));
    });
    __syncthreads();
    slab.for_each([&](int64_t c, int p, int64_t at) {
      const C g = widen(load(slab.global(grad_output, grad, c, p)));
      const C v = widen(load(slab.global(grad_grad_input, grad_grad, c, p)));
      const C d = denominator(c, at), shrink = norm.shrink(d), of_vx = sum_of_vx(c, at);
      const C of_sent = slab.over_mirrored_window(c, at, [&](int64_t j) { return sent[j]; });
      const C of_sent_twice = slab.over_mirrored_window(c, at, [&](int64_t j) { return sent_twice[j]; });
      store(slab.global(grad_grad_output, out, c, p), narrow<T>(norm.grad_grad_output(v, x[at], shrink, d, of_vx)));
      store(slab.global(grad_input, out, c, p),
            narrow<T>(norm.grad_input_twice(v, g, x[at], shrink, d, of_vx, of_sent, of_sent_twice)));
    });
  });
}

// The launch of one kernel: its plan, its blocks, and its scratch if that is in global memory.
template <class C>
struct Work {
  SlabPlan plan{};
  Blocks blocks{0, dim3(1, 1, 1), 0};
  std::optional<Tensor> global_memory;

  Work(const Tensor& input, const Layout& layout, int64_t size, int arrays) {
    const Sizes sizes = input.sizes();
    plan.channels = sizes[1];
    plan.positions = 1;
    for (size_t d = 2; d < sizes.size(); ++d) plan.positions *= sizes[d];
    if (input.numel() == 0) return;
    plan.channels_innermost = layout.channel_stride == 1 && layout.position_stride != 1;

    // A row of 32 positions is a whole line of memory; 8 float32 are a whole sector, the least worth reading.
    const int64_t row = plan.channels * arrays * static_cast<int64_t>(sizeof(C)), limit = shared_memory_limit();
    int64_t width = plan.channels_innermost ? std::max<int64_t>(1, 2 * kThreads / plan.channels) : 32;
    while (width > 1 && (width > plan.positions || width * row > kSharedWithoutAsking)) width /= 2;
    if (!plan.channels_innermost && width < 8 && plan.positions >= 8 && 8 * row <= limit) width = 8;
    plan.width = static_cast<int>(width);
    plan.slabs_per_image = (plan.positions + width - 1) / width;
    plan.slabs = sizes[0] * plan.slabs_per_image;
    plan.pitch = plan.channels * width;
    plan.channel_step = plan.channels_innermost ? 1 : width;
    plan.position_step = plan.channels_innermost ? plan.channels : 1;
    plan.before = std::min(size / 2, plan.channels);
    plan.after = std::min((size - 1) / 2, plan.channels);

    int along = 32;
    if (!plan.channels_innermost) {
      while (along > width) along /= 2;
    }
    blocks.threads = dim3(static_cast<unsigned>(along), static_cast<unsigned>(kThreads / along), 1);
    if (width * row <= limit) {
      blocks.count = std::min<int64_t>(plan.slabs, INT32_MAX);
      blocks.shared_bytes = width * row;
    } else {
      blocks.count = std::min(plan.slabs, kGlobalScratchBlocks);
      global_memory = empty_vector<C>(blocks.count * arrays * plan.pitch, input);
    }
  }

  C* scratch() const { return global_memory ? global_memory->template mutable_data_ptr<C>() : nullptr; }
};

Tensor local_response_norm_cuda(const Tensor& input, int64_t size, double alpha, double beta, double k) {
  check_arguments(input, size);
  const Tensor output = empty_output(input);
  const DeviceOf device(input);
  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    const Operand<T> in(input);
    const Work<Compute<T>> work(input, in.layout, size, 1);
    launch("local_response_norm", local_response_norm_kernel<T, decltype(norm)>, device, work.blocks, norm, work.plan,
           in.data, in.layout, output.mutable_data_ptr<T>(), *as_layout(output), work.scratch());
  });
  return output;
}

Tensor local_response_norm_backward_cuda(const Tensor& grad_output, const Tensor& input, int64_t size, double alpha,
                                         double beta, double k) {
  check_arguments(input, size);
  check_like(kOp, "grad_output", grad_output, "input", input);
  const Tensor grad_input = empty_output(input);
  const DeviceOf device(input);
  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    const Operand<T> in(input), grad(grad_output);
    const Work<Compute<T>> work(input, in.layout, size, 3);
    launch("local_response_norm_backward", local_response_norm_backward_kernel<T, decltype(norm)>, device, work.blocks,
           norm, work.plan, in.data, in.layout, grad.data, grad.layout, grad_input.mutable_data_ptr<T>(),
           *as_layout(grad_input), work.scratch());
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> local_response_norm_double_backward_cuda(const Tensor& grad_grad_input,
                                                                    const Tensor& grad_output, const Tensor& input,
                                                                    int64_t size, double alpha, double beta, double k) {
  check_arguments(input, size);
  check_like(kOp, "grad_output", grad_output, "input", input);
  check_like(kOp, "grad_grad_input", grad_grad_input, "input", input);
  const Tensor grad_grad_output = empty_output(input), grad_input = empty_output(input);
  const DeviceOf device(input);
  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    const Operand<T> in(input), grad(grad_output), grad_grad(grad_grad_input);
    const Work<Compute<T>> work(input, in.layout, size, 4);
    launch("local_response_norm_double_backward", local_response_norm_double_backward_kernel<T, decltype(norm)>, device,
           work.blocks, norm, work.plan, in.data, in.layout, grad.data, grad.layout, grad_grad.data, grad_grad.layout,
           grad_grad_output.mutable_data_ptr<T>(), grad_input.mutable_data_ptr<T>(), *as_layout(grad_input),
           work.scratch());
  });
  return {grad_grad_output, grad_input};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  library.impl("local_response_norm", TORCH_BOX(&handgrad::local_response_norm_cuda));
  library.impl("_local_response_norm_backward", TORCH_BOX(&handgrad::local_response_norm_backward_cuda));
  library.impl("_local_response_norm_double_backward", TORCH_BOX(&handgrad::local_response_norm_double_backward_cuda));
}
