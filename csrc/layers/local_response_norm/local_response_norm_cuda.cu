// Local response normalisation on CUDA devices.
//
// A block takes a slab, all channels of a few neighbouring positions of one image, into scratch memory: each element is
// read from global memory once, and the windows are summed from the copy. The scratch is shared memory; where a slab of
// even one position is too large for that, it is a piece of global memory that belongs to the block.
//
// Threads walk a slab along whichever of channels and positions lies densely in memory, so that a warp reads whole
// sectors in NCHW and in channels_last alike.
#include <algorithm>

#include "abi/registration.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "local_response_norm_host.h"

namespace handgrad {
namespace {

using namespace local_response_norm;

constexpr int kThreads = 256;
// So many blocks share scratch in global memory, each taking slab after slab.
constexpr int64_t kGlobalScratchBlocks = 512;
// The window of every published network.
constexpr int kUsualSize = 5;

// The cut of the work, and how scratch arrays are laid out. Index counts channels and places in a scratch array: 32
// bits for scratch in shared memory, which is never too large for them, and 64 bits for scratch in global memory.
template <class Index>
struct SlabPlan {
  int64_t positions, slabs_per_image, slabs;
  int width;
  Index channels;
  // Elements of one scratch array, and what separates neighbours in it.
  Index pitch, channel_step, position_step;
  // The window of channel c is [c - before, c + after]. Scratch has `padding` zero channels on either side of the real
  // ones, so that no window needs clipping.
  Index before, after, padding;
  bool channels_innermost;
};

// An operand from the first channel and position of a slab on; and then an element of it.
template <class T>
struct Cursor {
  T* data;
  int64_t channel_stride, position_stride;

  __device__ Cursor at(int64_t c, int p) const {
    return {data + c * channel_stride + p * position_stride, channel_stride, position_stride};
  }
};

template <class C, class Index>
struct Slab {
  const SlabPlan<Index>& plan;
  C* scratch;
  int64_t image, first;
  int width;

  __device__ Slab(const SlabPlan<Index>& plan, int64_t index, C* scratch) : plan(plan), scratch(scratch) {
    image = index / plan.slabs_per_image;
    first = (index - image * plan.slabs_per_image) * plan.width;
    const int64_t left = plan.positions - first;
    width = left < plan.width ? static_cast<int>(left) : plan.width;
  }

  __device__ C* array(int which) const { return scratch + which * plan.pitch; }

  template <class T>
  __device__ Cursor<T> open(T* base, const Layout& layout) const {
    return {base + image * layout.batch_stride + first * layout.position_stride, layout.channel_stride,
            layout.position_stride};
  }

  // body(place in a scratch array, pointer into each operand...) for each element, spread over the threads of the
  // block. A thread stays at one position and walks along its channels, so everything moves by constant steps.
  template <class Body, class... T>
  __device__ void for_each(const Body& body, const Cursor<T>&... operands) const {
    const int along = plan.channels_innermost ? threadIdx.x : threadIdx.y;
    const int step = plan.channels_innermost ? blockDim.x : blockDim.y;
    const int across = plan.channels_innermost ? threadIdx.y : threadIdx.x;
    const int across_step = plan.channels_innermost ? blockDim.y : blockDim.x;
    for (int p = across; p < width; p += across_step) walk(p, along, step, body, operands.at(along, p)...);
  }

  // The sum of term(element) over the window of the channel whose own element is array[at].
  template <class Term>
  __device__ C over_window(const C* array, Index at, const Term& term) const {
    return sum(array + at - plan.before * plan.channel_step, term);
  }
  // The same over the channels whose window holds it.
  template <class Term>
  __device__ C over_mirrored_window(const C* array, Index at, const Term& term) const {
    return sum(array + at - plan.after * plan.channel_step, term);
  }

 private:
  template <class Body, class... T>
  __device__ void walk(int p, Index c, Index step, const Body& body, Cursor<T>... operands) const {
    Index at = (plan.padding + c) * plan.channel_step + p * plan.position_step;
    for (; c < plan.channels; c += step) {
      body(at, operands.data...);
      at += step * plan.channel_step;
      ((operands.data += step * operands.channel_stride), ...);
    }
  }

  // A window of the usual size is laid out without a loop: the counting would cost as much as the sum.
  template <class Term>
  __device__ C sum(const C* first, const Term& term) const {
    C total = 0;
    if (const Index size = plan.before + plan.after + 1; size == kUsualSize) {
#pragma unroll
      for (Index i = 0; i < kUsualSize; ++i, first += plan.channel_step) total += term(*first);
    } else {
      for (Index i = 0; i < size; ++i, first += plan.channel_step) total += term(*first);
    }
    return total;
  }
};

// Zeros around the real channels of every array, once: nothing is written there later. The next barrier orders them.
template <class C, class Index>
__device__ void clear_padding(const SlabPlan<Index>& plan, int arrays, C* scratch) {
  const Index rows = 2 * plan.padding, count = rows * plan.width;
  for (Index i = threadIdx.y * blockDim.x + threadIdx.x; i < count; i += kThreads) {
    const Index row = i / plan.width, p = i - row * plan.width, c = row < plan.padding ? row : row + plan.channels;
    for (int which = 0; which < arrays; ++which) {
      scratch[which * plan.pitch + c * plan.channel_step + p * plan.position_step] = 0;
    }
  }
}

// Runs body(slab) for the slabs of this block; no thread begins the next before all have left the last.
template <class C, class Index, class Body>
__device__ void for_each_slab(const SlabPlan<Index>& plan, int arrays, C* global_scratch, C* shared_scratch,
                              const Body& body) {
  C* scratch = sizeof(Index) == 4 ? shared_scratch : global_scratch + int64_t{blockIdx.x} * arrays * plan.pitch;
  clear_padding(plan, arrays, scratch);
  for (int64_t index = blockIdx.x; index < plan.slabs; index += gridDim.x) {
    body(Slab<C, Index>(plan, index, scratch));
    __syncthreads();
  }
}

struct Same {
  template <class C>
  __device__ C operator()(C x) const {
    return x;
  }
};
struct Square {
  template <class C>
  __device__ C operator()(C x) const {
    return x * x;
  }
};

template <class Index, class T, class Norm>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    local_response_norm_kernel(SlabPlan<Index> plan, Compute<T>* global_scratch, Norm norm, const T* input, Layout in,
                               T* output, Layout out) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  for_each_slab(plan, 1, global_scratch, shared, [&](const Slab<C, Index>& slab) {
    C* x = slab.array(0);
    slab.for_each([&](Index at, const T* element) { x[at] = widen(load(element)); }, slab.open(input, in));
    __syncthreads();
    slab.for_each(
        [&](Index at, T* element) {
          const auto of = norm.factors(slab.over_window(x, at, Square()));
          store(element, narrow<T>(norm.value(x[at], of)));
        },
        slab.open(output, out));
  });
}

template <class Index, class T, class Norm>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    local_response_norm_backward_kernel(SlabPlan<Index> plan, Compute<T>* global_scratch, Norm norm, const T* input,
                                        Layout in, const T* grad_output, Layout grad, T* grad_input, Layout out) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  for_each_slab(plan, 3, global_scratch, shared, [&](const Slab<C, Index>& slab) {
    C *x = slab.array(0), *sent = slab.array(1), *direct = slab.array(2);
    slab.for_each([&](Index at, const T* element) { x[at] = widen(load(element)); }, slab.open(input, in));
    __syncthreads();
    slab.for_each(
        [&](Index at, const T* of_grad_output) {
          const C g = widen(load(of_grad_output));
          const auto of = norm.factors(slab.over_window(x, at, Square()));
          sent[at] = norm.sent(g, x[at], of);
          // g and shrink are needed once more, and only as this product.
          direct[at] = g * of.shrink;
        },
        slab.open(grad_output, grad));
    __syncthreads();
    slab.for_each(
        [&](Index at, T* element) {
          const C sum = slab.over_mirrored_window(sent, at, Same());
          store(element, narrow<T>(norm.grad_input(direct[at], x[at], C(1), sum)));
        },
        slab.open(grad_input, out));
  });
}

// Either result may be null. Without grad_input, grad_output is not read, and two scratch arrays are enough.
template <class Index, class T, class Norm>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    local_response_norm_double_backward_kernel(SlabPlan<Index> plan, Compute<T>* global_scratch, Norm norm,
                                               const T* input, Layout in, const T* grad_output, Layout grad,
                                               const T* grad_grad_input, Layout grad_grad, T* grad_grad_output,
                                               T* grad_input, Layout out) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  using C = Compute<T>;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  for_each_slab(plan, grad_input ? 4 : 2, global_scratch, shared, [&](const Slab<C, Index>& slab) {
    C *x = slab.array(0), *vx = slab.array(1);
    const auto grad_grads = slab.open(grad_grad_input, grad_grad);
    slab.for_each(
        [&](Index at, const T* of_input, const T* of_grad_grad) {
          x[at] = widen(load(of_input));
          vx[at] = x[at] * widen(load(of_grad_grad));
        },
        slab.open(input, in), grad_grads);
    __syncthreads();
    if (!grad_input) {
      slab.for_each(
          [&](Index at, const T* of_grad_grad, T* to_grad_grad) {
            const auto of = norm.factors(slab.over_window(x, at, Square()));
            const C v = widen(load(of_grad_grad)), of_vx = slab.over_window(vx, at, Same());
            store(to_grad_grad, narrow<T>(norm.grad_grad_output(v, x[at], of, of_vx)));
          },
          grad_grads, slab.open(grad_grad_output, out));
      return;
    }
    // The sums over windows are taken again where they are needed again: cheaper than two more arrays.
    C *sent = slab.array(2), *sent_twice = slab.array(3);
    const auto grads = slab.open(grad_output, grad);
    slab.for_each(
        [&](Index at, const T* of_grad, const T* of_grad_grad) {
          const C g = widen(load(of_grad)), v = widen(load(of_grad_grad));
          const auto of = norm.factors(slab.over_window(x, at, Square()));
          sent[at] = norm.sent(g, x[at], of);
          sent_twice[at] = norm.sent_twice(v, g, x[at], of, slab.over_window(vx, at, Same()));
        },
        grads, grad_grads);
    __syncthreads();
    slab.for_each(
        [&](Index at, const T* of_grad, const T* of_grad_grad, T* to_grad_grad, T* to_grad) {
          const C g = widen(load(of_grad)), v = widen(load(of_grad_grad));
          const auto of = norm.factors(slab.over_window(x, at, Square()));
          const C of_vx = slab.over_window(vx, at, Same());
          const C of_sent = slab.over_mirrored_window(sent, at, Same());
          const C of_sent_twice = slab.over_mirrored_window(sent_twice, at, Same());
          if (grad_grad_output) store(to_grad_grad, narrow<T>(norm.grad_grad_output(v, x[at], of, of_vx)));
          store(to_grad, narrow<T>(norm.grad_input_twice(v, g, x[at], of, of_vx, of_sent, of_sent_twice)));
        },
        grads, grad_grads, slab.open(grad_grad_output ? grad_grad_output : grad_input, out),
        slab.open(grad_input, out));
  });
}

// The launch of one kernel: its plan, its blocks, and its scratch if that is in global memory.
template <class C>
class Work {
 public:
  Work(const Tensor& input, const Layout& layout, int64_t size, int arrays) {
    const Sizes sizes = input.sizes();
    plan_.channels = sizes[1];
    plan_.positions = 1;
    for (size_t d = 2; d < sizes.size(); ++d) plan_.positions *= sizes[d];
    if (input.numel() == 0) return;
    plan_.channels_innermost = layout.channel_stride == 1 && layout.position_stride != 1;

    plan_.before = std::min(size / 2, plan_.channels);
    plan_.after = std::min((size - 1) / 2, plan_.channels);
    plan_.padding = std::max(plan_.before, plan_.after);
    const int64_t padded = plan_.channels + 2 * plan_.padding;

    // A row of 32 positions is a whole line of memory; 8 float32 are a whole sector, the least worth reading.
    const int64_t row = padded * arrays * static_cast<int64_t>(sizeof(C)), limit = shared_memory_limit();
    int64_t width = plan_.channels_innermost ? std::max<int64_t>(1, 8 * kThreads / plan_.channels) : 32;
    while (width > 1 && (width > plan_.positions || width * row > kSharedWithoutAsking)) width /= 2;
    if (!plan_.channels_innermost && width < 8 && plan_.positions >= 8 && 8 * row <= limit) width = 8;
    plan_.width = static_cast<int>(width);
    plan_.slabs_per_image = (plan_.positions + width - 1) / width;
    plan_.slabs = sizes[0] * plan_.slabs_per_image;
    plan_.pitch = padded * width;
    plan_.channel_step = plan_.channels_innermost ? 1 : width;
    plan_.position_step = plan_.channels_innermost ? padded : 1;

    int along = 32;
    if (!plan_.channels_innermost) {
      while (along > width) along /= 2;
    }
    blocks_.threads = dim3(static_cast<unsigned>(along), static_cast<unsigned>(kThreads / along), 1);
    if (width * row <= limit) {
      blocks_.count = std::min<int64_t>(plan_.slabs, INT32_MAX);
      blocks_.shared_bytes = width * row;
    } else {
      blocks_.count = std::min(plan_.slabs, kGlobalScratchBlocks);
      global_memory_ = empty_vector<C>(blocks_.count * arrays * plan_.pitch, input);
    }
  }

  // One of two instances of a kernel: for scratch in shared memory, or in global memory.
  template <class InShared, class InGlobal, class... Arguments>
  void run(const char* name, const DeviceOf& device, InShared in_shared, InGlobal in_global,
           const Arguments&... arguments) const {
    if (global_memory_) {
      launch(name, in_global, device, blocks_, plan_, global_memory_->template mutable_data_ptr<C>(), arguments...);
    } else {
      launch(name, in_shared, device, blocks_, small_plan(), nullptr, arguments...);
    }
  }

 private:
  SlabPlan<int32_t> small_plan() const {
    const auto small = [](int64_t index) { return static_cast<int32_t>(index); };
    return {plan_.positions,
            plan_.slabs_per_image,
            plan_.slabs,
            plan_.width,
            small(plan_.channels),
            small(plan_.pitch),
            small(plan_.channel_step),
            small(plan_.position_step),
            small(plan_.before),
            small(plan_.after),
            small(plan_.padding),
            plan_.channels_innermost};
  }

  SlabPlan<int64_t> plan_{};
  Blocks blocks_{0, dim3(1, 1, 1), 0};
  std::optional<Tensor> global_memory_;
};

Tensor local_response_norm_cuda(const Tensor& input, int64_t size, double alpha, double beta, double k) {
  check_arguments(input, size);
  const Tensor output = empty_output(input);
  const DeviceOf device(input);
  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    const Operand<T> in(input);
    const Work<Compute<T>> work(input, in.layout, size, 1);
    work.run("local_response_norm", device, local_response_norm_kernel<int32_t, T, decltype(norm)>,
             local_response_norm_kernel<int64_t, T, decltype(norm)>, norm, in.data, in.layout,
             output.mutable_data_ptr<T>(), *as_layout(output));
  });
  return output;
}

Tensor local_response_norm_backward_cuda(const Tensor& grad_output, const Tensor& input, int64_t size, double alpha,
                                         double beta, double k, const std::vector<bool>& output_mask) {
  check_backward(grad_output, input, size);
  if (!as_output_mask<1>(kOp, output_mask)[0]) return empty_placeholder(input);
  const Tensor grad_input = empty_output(input);
  const DeviceOf device(input);
  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    const Operand<T> in(input), grad(grad_output);
    const Work<Compute<T>> work(input, in.layout, size, 3);
    work.run("local_response_norm_backward", device, local_response_norm_backward_kernel<int32_t, T, decltype(norm)>,
             local_response_norm_backward_kernel<int64_t, T, decltype(norm)>, norm, in.data, in.layout, grad.data,
             grad.layout, grad_input.mutable_data_ptr<T>(), *as_layout(grad_input));
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> local_response_norm_double_backward_cuda(const std::optional<Tensor>& grad_grad_input,
                                                                    const Tensor& grad_output, const Tensor& input,
                                                                    int64_t size, double alpha, double beta, double k,
                                                                    const std::vector<bool>& output_mask) {
  check_double_backward(grad_grad_input, grad_output, input, size);
  const DoubleBackward call(grad_grad_input, input, as_output_mask<2>(kOp, output_mask));
  if (call.nothing_to_do()) return {call.grad_grad_output, call.grad_input};
  const DeviceOf device(input);
  with_formula(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    using T = typename decltype(tag)::type;
    // grad_output is read for grad_input alone.
    const Operand<T> in(input), grad(call.wants_grad_input ? grad_output : input), grad_grad(*grad_grad_input);
    const Work<Compute<T>> work(input, in.layout, size, call.wants_grad_input ? 4 : 2);
    T* const to_grad_grad = call.wants_grad_grad_output ? call.grad_grad_output.mutable_data_ptr<T>() : nullptr;
    T* const to_grad = call.wants_grad_input ? call.grad_input.mutable_data_ptr<T>() : nullptr;
    work.run("local_response_norm_double_backward", device,
             local_response_norm_double_backward_kernel<int32_t, T, decltype(norm)>,
             local_response_norm_double_backward_kernel<int64_t, T, decltype(norm)>, norm, in.data, in.layout,
             grad.data, grad.layout, grad_grad.data, grad_grad.layout, to_grad_grad, to_grad,
             *as_layout(to_grad ? call.grad_input : call.grad_grad_output));
  });
  return {call.grad_grad_output, call.grad_input};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::local_response_norm_cuda>(library, "local_response_norm");
  handgrad::implement<handgrad::local_response_norm_backward_cuda>(library, "_local_response_norm_backward");
  handgrad::implement<handgrad::local_response_norm_double_backward_cuda>(library,
                                                                          "_local_response_norm_double_backward");
}
