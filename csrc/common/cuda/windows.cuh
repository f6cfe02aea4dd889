// Windows of a filter on the device: the work of one block on a tile (math/window_passes.h), and its launch.
//
// The pixels that a tile's windows reach, and all that is made of them, are in shared memory; of windows too large for
// that, in a piece of global memory that belongs to the block, which takes tile after tile. A tile is as large as
// leaves room for two blocks of a multiprocessor.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"
#include "cuda/stored.cuh"
#include "math/window_passes.h"

namespace handgrad {

inline constexpr int kWindowThreads = 256;

template <class C>
class WindowBlock {
 public:
  static constexpr bool kAveragesPlanes = false;

  // All threads of the block make one. `weights`: memory for them.
  __device__ WindowBlock(const WindowPlan& plan, C* weights) : weights_(weights) {
    for (int32_t j = threadIdx.x; j < plan.taps; j += kWindowThreads) {
      double total = 0;
#pragma unroll 1
      for (int32_t i = 0; i < plan.taps; ++i) total += window_weight(plan.taps, plan.sigma, i);
      weights[j] = static_cast<C>(window_weight(plan.taps, plan.sigma, j) / total);
    }
    meet();
  }

  __device__ const C* weights() const { return weights_; }

  __device__ C pixel(const StoredView<const C, 5>& view, int64_t n, int64_t c, const int32_t (&i)[3]) const {
    return read(view.at(n, c, i[0], i[1], i[2]));
  }

  template <class Body>
  __device__ __forceinline__ void for_box(const WindowBuffer& box, const Body& body) const {
    const uint32_t count = static_cast<uint32_t>(box.count()), lines = static_cast<uint32_t>(box.extent[1]);
    const uint32_t width = static_cast<uint32_t>(box.extent[2]);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += kWindowThreads) {
      const uint32_t row = i / width, s = row / lines;
      body(static_cast<int32_t>(s), static_cast<int32_t>(row - s * lines), static_cast<int32_t>(i - row * width),
           static_cast<int32_t>(i));
    }
    meet();
  }

  __device__ void load(const StoredView<const C, 5>& view, int64_t n, int64_t c, const WindowAxis* axes,
                       const int32_t* origin, const WindowBuffer& box, C moved, C* to) const {
    for_box(box, [&](int32_t s, int32_t r, int32_t w, int32_t i) {
      const int32_t slice = axes[0].pixel(origin[0] + s), line = axes[1].pixel(origin[1] + r);
      const int32_t column = axes[2].pixel(origin[2] + w);
      const bool there = view && slice >= 0 && line >= 0 && column >= 0;
      to[i] = (there ? read(view.at(n, c, slice, line, column)) : C(0)) - moved;
    });
  }

  __device__ void store(const C* from, const WindowBuffer& box, const StoredView<C, 5>& view, int64_t n, int64_t c,
                        const int32_t* first, const int32_t* sizes) const {
    for_box(box, [&](int32_t s, int32_t r, int32_t w, int32_t i) {
      const int32_t slice = first[0] + s, line = first[1] + r, column = first[2] + w;
      if (slice < sizes[0] && line < sizes[1] && column < sizes[2]) {
        write(view.at(n, c, slice, line, column), from[i]);
      }
    });
  }

  __device__ void filter(const C* from, const WindowBuffer& box, int axis, const WindowBuffer& result, C* to) const {
    const int32_t taps = box.extent[axis] - result.extent[axis] + 1, step = box.step(axis);
    for_box(result, [&](int32_t s, int32_t r, int32_t w, int32_t i) {
      const C* pixel = from + box.index(s, r, w);
      C total = 0;
#pragma unroll 4
      for (int32_t j = 0; j < taps; ++j, pixel += step) total += weights_[j] * *pixel;
      to[i] = total;
    });
  }

  // What one thread has written, all others may read.
  __device__ void meet() const { __syncthreads(); }

 private:
  const C* weights_;
};

template <class C, class Formula, class Pass>
__global__ void __launch_bounds__(kWindowThreads, kMinBlocks)
    window_score_kernel(WindowPlan plan, WindowOperands<C> operands, Formula formula, Pass pass, C* global,
                        double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kWindowThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  C* const scratch = global ? global + blockIdx.x * (plan.scratch() + plan.taps) : shared;
  WindowBlock<C> block(plan, scratch);
  WindowPasses<WindowBlock<C>, C, Formula> passes(plan, operands, formula, block, scratch + plan.taps);
#pragma unroll 1
  for (int64_t item = blockIdx.x; item < plan.items; item += gridDim.x) {
    passes.move_to(item);
    pass(passes);
    if (!partial) continue;
    double total = 0;
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < plan.inner.count(); i += kWindowThreads) {
      total += static_cast<double>(passes.work[i]);
    }
    total = block_sum<kWindowThreads>(total);
    if (threadIdx.x == 0) store(partial + item, total);
    block.meet();
  }
}

// The second stage: a thread for each plane adds up its tiles in order.
template <class C>
__global__ void __launch_bounds__(kWindowThreads, kMinBlocks)
    window_sums_kernel(const double* partial, int64_t tiles, int64_t planes, WindowMeans<C> means) {
  HANDGRAD_LAUNCH_BOUNDS(kWindowThreads);
  const int64_t plane = int64_t{blockIdx.x} * kWindowThreads + threadIdx.x;
  if (plane >= planes) return;
  double total = 0;
#pragma unroll 1
  for (int64_t k = 0; k < tiles; ++k) total += load(partial + plane * tiles + k);
  store(means.first + plane * means.step, static_cast<C>(total * means.scale));
}

struct WindowsOnCuda {
  static constexpr int kSizes = 5;
  static constexpr int32_t kPlane[kSizes][3] = {{1, 32, 32}, {1, 16, 32}, {1, 16, 16}, {1, 8, 16}, {1, 8, 8}};
  static constexpr int32_t kVolume[kSizes][3] = {{8, 8, 16}, {4, 8, 16}, {4, 8, 8}, {4, 4, 8}, {4, 4, 4}};

  static int64_t bytes(const WindowPlan& plan, size_t size) {
    return (plan.scratch() + plan.taps) * static_cast<int64_t>(size);
  }

  static WindowPlan plan(const WindowAxes& axes, double sigma, int64_t batch, int64_t channels, bool gradient,
                         int32_t images, int32_t averages, size_t size) {
    const auto of_size = [&](int k) {
      return WindowPlan(axes, sigma, batch, channels, axes.count == 2 ? kPlane[k] : kVolume[k], gradient, images,
                        averages, 1, 0);
    };
    const int64_t limit = shared_memory_limit();
    for (const int64_t room : {limit / 2, limit}) {
      for (int k = 0; k < kSizes; ++k) {
        const WindowPlan plan = of_size(k);
        if (bytes(plan, size) <= room) return plan;
      }
    }
    return of_size(0);
  }

  // As WindowsOnCpu has it.
  template <class C, class Formula, class Pass>
  static void run(const std::string& name, const Tensor& like, const WindowPlan& plan,
                  const WindowOperands<C>& operands, const Formula& formula, const Pass& pass,
                  const WindowMeans<C>& means) {
    const DeviceOf device(like);
    const int64_t needed = bytes(plan, sizeof(C));
    const bool fits = needed <= shared_memory_limit();
    const int64_t blocks = fits ? std::min<int64_t>(plan.items, INT32_MAX) : std::min(plan.items, kGlobalScratchBlocks);
    std::optional<Tensor> global, partial;
    if (!fits) global = empty_vector<C>(blocks * needed / static_cast<int64_t>(sizeof(C)), like);
    if (means) partial = empty_vector<double>(plan.items, like);
    launch(name.c_str(), window_score_kernel<C, Formula, Pass>, device,
           {blocks, dim3(kWindowThreads, 1, 1), fits ? needed : 0}, plan, operands, formula, pass,
           global ? global->template mutable_data_ptr<C>() : nullptr,
           partial ? partial->template mutable_data_ptr<double>() : nullptr);
    if (!means) return;
    const int64_t tiles = plan.tiles_of_plane(), planes = plan.items / tiles;
    launch("sums_of_windows", window_sums_kernel<C>, device, blocks_for(planes, kWindowThreads),
           partial->template const_data_ptr<double>(), tiles, planes, means);
  }
};

}  // namespace handgrad
