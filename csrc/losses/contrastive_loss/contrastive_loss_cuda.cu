// The contrastive loss on CUDA devices: a warp for each pair, which keeps its difference in registers; of embeddings
// that are too long for them the rest is read again, from a cache as a rule. Sums go over blocks, and then over these
// in order, in double: the same bits on every run.
#include "contrastive_loss_host.h"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"

namespace handgrad::contrastive_loss {
namespace {

constexpr int kPairThreads = 256, kPairsOfBlock = kPairThreads / kWarpSize;
// Numbers of an embedding that a thread keeps.
constexpr int kKept = 8;

template <class C>
__device__ __forceinline__ C read(const StoredView<const C, 2>& view, int64_t n, int64_t i) {
  return view ? read_constant(view.at(n, i)) : C(0);
}
template <class C>
__device__ __forceinline__ void write(const StoredView<C, 2>& view, int64_t n, int64_t i, C value) {
  if (view) write(view.at(n, i), value);
}
template <class C>
__device__ __forceinline__ C sum_in_all(C value) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// The difference of two rows, as the threads of a warp hold it.
template <class C>
struct Difference {
  const StoredView<const C, 2>&first, &second;
  int64_t n;
  C kept[kKept];

  __device__ Difference(const StoredView<const C, 2>& first, const StoredView<const C, 2>& second, int64_t n,
                        int64_t width)
      : first(first), second(second), n(n) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) {
      const int64_t i = k * kWarpSize + threadIdx.x % kWarpSize;
      kept[k] = i < width ? read(first, n, i) - read(second, n, i) : C(0);
    }
  }
  __device__ C beyond(int64_t i) const { return read(first, n, i) - read(second, n, i); }
};

// body(index, difference, direction) for the numbers of a thread.
template <class C, class Body>
__device__ __forceinline__ void for_each_number(const Difference<C>& x, const Difference<C>& y, int64_t width,
                                                const Body& body) {
  const int64_t lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    if (k * kWarpSize + lane < width) body(k * kWarpSize + lane, x.kept[k], y.kept[k]);
  }
#pragma unroll 1
  for (int64_t i = kKept * kWarpSize + lane; i < width; i += kWarpSize) {
    body(i, x.beyond(i), &x == &y ? x.beyond(i) : y.beyond(i));
  }
}

template <class C, Pass kPass>
__device__ __forceinline__ C pair(const Views<C>& views, int64_t n) {
  const Difference<C> difference(views.input1, views.input2, n, views.width);
  C s = 0;
  for_each_number(difference, difference, views.width, [&](int64_t, C x, C) { s += x * x; });
  s = sum_in_all(s);
  const bool similar = load_constant(views.targets.at(n)) != 0;
  if constexpr (kPass == Pass::value) {
    return views.formula.value(s, similar);
  } else {
    const C grad = load_constant(views.grad_output.at(n)) * views.factor, slope = views.formula.slope(s, similar);
    if constexpr (kPass == Pass::gradient) {
      for_each_number(difference, difference, views.width, [&](int64_t i, C x, C) {
        write(views.grad_input1, n, i, grad * slope * x);
        write(views.grad_input2, n, i, -(grad * slope * x));
      });
      return 0;
    } else {
      const Difference<C> direction(views.direction1, views.direction2, n, views.width);
      C product = 0;
      for_each_number(difference, direction, views.width, [&](int64_t, C x, C v) { product += x * v; });
      product = sum_in_all(product);
      const C bend = grad * views.formula.bend(s, similar) * product;
      for_each_number(difference, direction, views.width, [&](int64_t i, C x, C v) {
        const C result = grad * slope * v + bend * x;
        write(views.grad_input1, n, i, result);
        write(views.grad_input2, n, i, -result);
      });
      return slope * product;
    }
  }
}

template <class C, Pass kPass>
__global__ void __launch_bounds__(kPairThreads, kMinBlocks) pairs_kernel(Views<C> views, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kPairThreads);
  const int64_t n = int64_t{blockIdx.x} * kPairsOfBlock + threadIdx.x / kWarpSize;
  const bool first = threadIdx.x % kWarpSize == 0;
  C loss = 0;
  if (n < views.pairs) {
    loss = pair<C, kPass>(views, n);
    if (first && views.losses) store(views.losses.at(n), loss);
  }
  if (partial) store_block_sum<kPairThreads>(first ? static_cast<double>(loss) : 0.0, partial);
}

struct PairsOnCuda {
  template <class C>
  static void run(Pass pass, const Operands& operands) {
    switch (pass) {
      case Pass::value: return run_pass<C, Pass::value>("contrastive_loss", operands);
      case Pass::gradient: return run_pass<C, Pass::gradient>("contrastive_loss_backward", operands);
      case Pass::second: return run_pass<C, Pass::second>("contrastive_loss_double_backward", operands);
    }
  }
  template <class C, Pass kPass>
  static void run_pass(const char* name, const Operands& operands) {
    const DeviceOf device(operands.input1);
    const Views<C> views(operands);
    const int64_t blocks = (views.pairs + kPairsOfBlock - 1) / kPairsOfBlock;
    std::optional<Tensor> partial;
    if (operands.losses && operands.reduced()) partial = empty_vector<double>(blocks, operands.input1);
    launch(name, pairs_kernel<C, kPass>, device, Blocks{blocks, dim3(kPairThreads, 1, 1), 0}, views,
           partial ? partial->mutable_data_ptr<double>() : static_cast<double*>(nullptr));
    if (!partial) return;
    launch("sum_partial", sum_partial_kernel<kSumThreads>, device, Blocks{1, dim3(kSumThreads, 1, 1), 0},
           partial->const_data_ptr<double>(), blocks, operands.divisor(), operands.losses->scalar_type(),
           operands.losses->mutable_data_ptr());
  }
};

}  // namespace
}  // namespace handgrad::contrastive_loss

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  using Of = handgrad::contrastive_loss::Entries<handgrad::contrastive_loss::PairsOnCuda>;
  handgrad::implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, "contrastive_loss");
}
