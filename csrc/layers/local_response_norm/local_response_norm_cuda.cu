// Local response normalisation on CUDA devices, slab by slab (cuda/slabs.cuh): the windows are summed from a block's
// copy of all channels, with zero channels in front of and behind the real ones.
#include "abi/registration.h"
#include "cuda/slabs.cuh"
#include "local_response_norm_host.h"

namespace handgrad::local_response_norm {
namespace {

// The window of every published network.
constexpr int kUsualSize = 5;

// The window as kernels take it.
struct Reach {
  int32_t before, after;

  explicit Reach(const Window& window)
      : before(static_cast<int32_t>(window.before)), after(static_cast<int32_t>(window.after)) {}
};

// Sums over windows of one slab, for the channel whose own element is array[i].
template <class Access>
struct WindowSums {
  int32_t before, after, channel_step;

  __device__ WindowSums(const SlabPlan& plan, const Reach& window)
      : before(window.before), after(window.after), channel_step(plan.channel_step) {}

  // Over W(c), the window of the channel.
  template <class C>
  __device__ C plain(const C* array, int32_t i) const {
    return sum(array + (i - before * channel_step), [](C x) { return x; });
  }
  template <class C>
  __device__ C of_squares(const C* array, int32_t i) const {
    return sum(array + (i - before * channel_step), [](C x) { return x * x; });
  }
  // Over W*(c), the channels whose window holds it.
  template <class C>
  __device__ C mirrored(const C* array, int32_t i) const {
    return sum(array + (i - after * channel_step), [](C x) { return x; });
  }

 private:
  // A window of the usual size is laid out without a loop: the counting would cost as much as the sum.
  template <class C, class Term>
  __device__ C sum(const C* first, const Term& term) const {
    C total = 0;
    if (const int32_t size = before + after + 1; Access::kUnroll > 1 && size == kUsualSize) {
#pragma unroll
      for (int32_t i = 0; i < kUsualSize; ++i, first += channel_step) total += term(*first);
    } else {
#pragma unroll Access::kUnroll
      for (int32_t i = 0; i < size; ++i, first += channel_step) total += term(*first);
    }
    return total;
  }
};

template <class Access, class Norm>
__global__ void __launch_bounds__(kSlabThreads, kMinBlocks)
    local_response_norm_kernel(SlabPlan plan, typename Access::C* global, Norm norm, Reach window,
                               typename Access::Input input, typename Access::Output output) {
  HANDGRAD_LAUNCH_BOUNDS(kSlabThreads);
  using C = typename Access::C;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const WindowSums<Access> sums(plan, window);
  for_each_slab<Access>(plan, 1, global, shared, [&](const Slab<Access>& slab) {
    C* x = slab.array(0);
    slab.for_each([&](int32_t i, auto x_element) { x[i] = read(x_element); }, slab.open(input));
    __syncthreads();
    slab.for_each([&](int32_t i, auto result) { write(result, norm.value(x[i], norm.factors(sums.of_squares(x, i)))); },
                  slab.open(output));
  });
}

template <class Access, class Norm>
__global__ void __launch_bounds__(kSlabThreads, kMinBlocks)
    local_response_norm_backward_kernel(SlabPlan plan, typename Access::C* global, Norm norm, Reach window,
                                        typename Access::Input grad_output, typename Access::Input input,
                                        typename Access::Output grad_input) {
  HANDGRAD_LAUNCH_BOUNDS(kSlabThreads);
  using C = typename Access::C;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const WindowSums<Access> sums(plan, window);
  for_each_slab<Access>(plan, 3, global, shared, [&](const Slab<Access>& slab) {
    C *x = slab.array(0), *s = slab.array(1), *direct = slab.array(2);
    slab.for_each([&](int32_t i, auto x_element) { x[i] = read(x_element); }, slab.open(input));
    __syncthreads();
    slab.for_each(
        [&](int32_t i, auto g_element) {
          const C g = read(g_element);
          const auto d = norm.factors(sums.of_squares(x, i));
          s[i] = norm.s(g, x[i], d);
          // g and shrink are needed once more, and only as this product.
          direct[i] = g * d.shrink;
        },
        slab.open(grad_output));
    __syncthreads();
    slab.for_each(
        [&](int32_t i, auto result) { write(result, norm.grad_input(direct[i], x[i], C(1), sums.mirrored(s, i))); },
        slab.open(grad_input));
  });
}

// What is asked of the double backward; results that are not may be any memory. Without grad_input, grad_output is not
// read, and two scratch arrays are enough.
struct Wanted {
  bool grad_grad_output, grad_input;
};

template <class Access, class Norm>
__global__ void __launch_bounds__(kSlabThreads, kMinBlocks)
    local_response_norm_double_backward_kernel(SlabPlan plan, typename Access::C* global, Norm norm, Reach window,
                                               Wanted wanted, typename Access::Input grad_grad_input,
                                               typename Access::Input grad_output, typename Access::Input input,
                                               typename Access::Output grad_grad_output,
                                               typename Access::Output grad_input) {
  HANDGRAD_LAUNCH_BOUNDS(kSlabThreads);
  using C = typename Access::C;
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const WindowSums<Access> sums(plan, window);
  const int arrays = wanted.grad_input ? 4 : 2;
  for_each_slab<Access>(plan, arrays, global, shared, [&](const Slab<Access>& slab) {
    C *x = slab.array(0), *vx = slab.array(1), *s = slab.array(2), *r = slab.array(3);
    const auto grads = slab.open(grad_output), grad_grads = slab.open(grad_grad_input);
    slab.for_each(
        [&](int32_t i, auto x_element, auto v_element) {
          x[i] = read(x_element);
          vx[i] = x[i] * read(v_element);
        },
        slab.open(input), grad_grads);
    __syncthreads();
    // The sums over windows are taken again where they are needed again: cheaper than two more arrays.
    if (wanted.grad_input) {
      slab.for_each(
          [&](int32_t i, auto g_element, auto v_element) {
            const C g = read(g_element), v = read(v_element);
            const auto d = norm.factors(sums.of_squares(x, i));
            s[i] = norm.s(g, x[i], d);
            r[i] = norm.r(v, g, x[i], d, sums.plain(vx, i));
          },
          grads, grad_grads);
      __syncthreads();
    }
    slab.for_each(
        [&](int32_t i, auto g_element, auto v_element, auto first_result, auto second_result) {
          const C v = read(v_element), u = sums.plain(vx, i);
          const auto d = norm.factors(sums.of_squares(x, i));
          if (wanted.grad_grad_output) write(first_result, norm.grad_grad_output(v, x[i], d, u));
          if (wanted.grad_input) {
            const C g = read(g_element), sum_s = sums.mirrored(s, i), sum_r = sums.mirrored(r, i);
            write(second_result, norm.second_grad_input(v, g, x[i], d, u, sum_s, sum_r));
          }
        },
        grads, grad_grads, slab.open(grad_grad_output), slab.open(grad_input));
  });
}

// Calls body(tag, norm) with the type of `input` and the formula in the type that it is computed in.
template <class Body>
void with_formula_of(const Tensor& input, int64_t size, double alpha, double beta, double k, const Body& body) {
  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    with_formula<Compute<typename decltype(tag)::type>>(size, alpha, beta, k, [&](auto norm) { body(tag, norm); });
  });
}

Tensor local_response_norm_cuda(const Tensor& input,  // [N, C, *]
                                int64_t size, double alpha, double beta, double k) {
  check_arguments(input, size);
  const Tensor output = empty_in_layout_of(input);
  const ChannelTensor flat_input(input), flat_output(output);
  const Window window(size, flat_input.channels);
  const DeviceOf device(input);
  with_formula_of(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    const SlabLaunch<typename decltype(tag)::type> work(kOp, flat_input, window.padding(), 1);
    const auto run = [&](auto access) {
      using Access = decltype(access);
      work.run(kOp, device, local_response_norm_kernel<Access, decltype(norm)>, norm, Reach(window),
               Access::input(flat_input), Access::output(flat_output));
    };
    work.dispatch(run);
  });
  return output;
}

Tensor local_response_norm_backward_cuda(const Tensor& grad_output,  // [N, C, *]
                                         const Tensor& input,        // [N, C, *]
                                         int64_t size, double alpha, double beta, double k,
                                         const std::vector<bool>& output_mask) {
  check_backward(grad_output, input, size);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (!wanted) return grad_input;
  const ChannelTensor flat_input(input), flat_grad(grad_output), flat_result(grad_input);
  const Window window(size, flat_input.channels);
  const DeviceOf device(input);
  with_formula_of(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    const SlabLaunch<typename decltype(tag)::type> work(kOp, flat_input, window.padding(), 3);
    const auto run = [&](auto access) {
      using Access = decltype(access);
      work.run("local_response_norm_backward", device, local_response_norm_backward_kernel<Access, decltype(norm)>,
               norm, Reach(window), Access::input(flat_grad), Access::input(flat_input), Access::output(flat_result));
    };
    work.dispatch(run);
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> local_response_norm_double_backward_cuda(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, *]
    const Tensor& grad_output,                     // [N, C, *]
    const Tensor& input,                           // [N, C, *]
    int64_t size, double alpha, double beta, double k, const std::vector<bool>& output_mask) {
  const DoubleBackward call(grad_grad_input, grad_output, input, size, output_mask);
  if (call.is_done()) return {call.grad_grad_output, call.grad_input};
  const Wanted wanted{call.wants_grad_grad_output, call.wants_grad_input};
  // What is neither read nor written is any memory.
  const ChannelTensor flat_input(input), flat_v(*grad_grad_input), flat_grad(wanted.grad_input ? grad_output : input);
  const ChannelTensor flat_first(wanted.grad_grad_output ? call.grad_grad_output : call.grad_input);
  const ChannelTensor flat_second(wanted.grad_input ? call.grad_input : call.grad_grad_output);
  const Window window(size, flat_input.channels);
  const DeviceOf device(input);
  with_formula_of(input, size, alpha, beta, k, [&](auto tag, auto norm) {
    const SlabLaunch<typename decltype(tag)::type> work(kOp, flat_input, window.padding(), wanted.grad_input ? 4 : 2);
    const auto run = [&](auto access) {
      using Access = decltype(access);
      work.run("local_response_norm_double_backward", device,
               local_response_norm_double_backward_kernel<Access, decltype(norm)>, norm, Reach(window), wanted,
               Access::input(flat_v), Access::input(flat_grad), Access::input(flat_input), Access::output(flat_first),
               Access::output(flat_second));
    };
    work.dispatch(run);
  });
  return {call.grad_grad_output, call.grad_input};
}

}  // namespace
}  // namespace handgrad::local_response_norm

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::implement<handgrad::local_response_norm::local_response_norm_cuda>(library, "local_response_norm");
  handgrad::implement<handgrad::local_response_norm::local_response_norm_backward_cuda>(
      library, "_local_response_norm_backward");
  handgrad::implement<handgrad::local_response_norm::local_response_norm_double_backward_cuda>(
      library, "_local_response_norm_double_backward");
}
