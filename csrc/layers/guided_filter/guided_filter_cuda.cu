// A guided filter on CUDA devices: a block for each tile of a pass, with its planes in shared memory, or of windows too
// large for that in a piece of global memory that belongs to the block.
#include "cuda/reduce.cuh"
#include "cuda/scratch_blocks.cuh"
#include "cuda/stored.cuh"
#include "guided_filter_host.h"

namespace handgrad::guided_filter {
namespace {

// Of passes of dual numbers half as many, for a thread to have them in registers.
constexpr int kThreads = 256;

template <int Threads>
class Block {
 public:
  template <class Body>
  __device__ __forceinline__ void each(int32_t begin, int32_t end, const Body& body) const {
#pragma unroll 1
    for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < end; i += Threads) body(i);
  }
  template <class Body>
  __device__ __forceinline__ void cells(int32_t rows, int32_t width, const Body& body) const {
    const uint32_t count = static_cast<uint32_t>(rows) * static_cast<uint32_t>(width);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += Threads) {
      const uint32_t row = i / static_cast<uint32_t>(width);
      body(static_cast<int32_t>(row), static_cast<int32_t>(i - row * static_cast<uint32_t>(width)));
    }
  }
  __device__ __forceinline__ int32_t chunk(int32_t count) const { return count > 0 ? count : 1; }
  __device__ __forceinline__ void sync() const { __syncthreads(); }
  __device__ __forceinline__ bool leads() const { return threadIdx.x == 0; }

  template <class C>
  __device__ __forceinline__ C pixel(const Stored<const C>& at) const {
    return read(at);
  }
  template <class C>
  __device__ __forceinline__ C get(const C* at) const {
    return handgrad::load(at);
  }
  template <class C>
  __device__ __forceinline__ void put(C* at, C value) const {
    handgrad::store(at, value);
  }

  template <class Source, class C>
  __device__ __forceinline__ void load(const Source& source, const Box& box, C* to) const {
    cells(box.rows, box.columns, [&](int32_t r, int32_t w) {
      const int64_t y = border_index(box.border, box.y + r, box.height);
      const int64_t x = border_index(box.border, box.x + w, box.width);
      to[r * box.pitch + w] = y < 0 || x < 0 ? C(0) : source.at(*this, y, x);
    });
  }
  template <class C>
  __device__ __forceinline__ void store(const C* from, const Box& box, C shift, const StoredView<C, 4>& to, int64_t n,
                                        int64_t c) const {
    cells(box.rows, box.columns,
          [&](int32_t r, int32_t w) { write(to.at(n, c, box.y + r, box.x + w), from[r * box.pitch + w] + shift); });
  }
  template <class Body>
  __device__ __forceinline__ double sum(int32_t rows, int32_t width, const Body& body) const {
    double total = 0;
    cells(rows, width, [&](int32_t r, int32_t w) { total += body(r, w); });
    return block_sum<Threads>(total);
  }
};

// A block for each item from the first on.
template <class C, class Pass, int Threads>
__global__ void __launch_bounds__(Threads, kMinBlocks) tile_kernel(const Pass pass, int64_t first, C* global) {
  HANDGRAD_LAUNCH_BOUNDS(Threads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  Block<Threads> block;
  pass(block, global ? global + blockIdx.x * pass.scratch() : shared, first + blockIdx.x);
}

// A thread for each image adds up its items in order.
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    guided_filter_eps_kernel(const double* sums, int64_t items, int64_t images, View<double, 1> results) {
  HANDGRAD_LAUNCH_BOUNDS(kThreads);
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= images) return;
  double total = 0;
#pragma unroll 1
  for (int64_t item = n * items; item < (n + 1) * items; ++item) total += load(sums + 2 * item);
  store(results.at(n), total);
}

struct OnCuda {
  // Rows and columns of tiles, from the largest on: the first that leaves room for four blocks is taken, or for one. Of
  // scratch in global memory, larger ones.
  static constexpr int32_t kTiles[][2] = {{32, 64}, {16, 64}, {16, 32}, {8, 32}}, kLargest[2] = {64, 64};

  template <class C, class Pass>
  static void cut(Pass& pass, const Tensor& like) {
    const DeviceOf device(like);
    const int64_t limit = shared_memory_limit();
    for (const int64_t room : {limit / 4, limit}) {
      for (const auto& [height, width] : kTiles) {
        pass.cut(height, width);
        if (pass.scratch() * static_cast<int64_t>(sizeof(C)) <= room) return;
      }
    }
    pass.cut(kLargest[0], kLargest[1]);
  }
  template <class C, class Pass>
  static void run(Pass pass, const Tensor& like) {
    const DeviceOf device(like);
    cut<C>(pass, like);
    constexpr int threads = kThreads / Pass::kPartsOfNumbers;
    for_blocks_with_scratch<C>(
        pass.items(), pass.scratch(), threads, like, [&](int64_t first, const Blocks& blocks, C* global) {
          launch(Pass::kName, tile_kernel<C, Pass, threads>, device, blocks, pass, first, global);
        });
  }
  static void sum_items(const double* sums, int64_t items, int64_t images, const View<double, 1>& results,
                        const Tensor& like) {
    launch("guided_filter_eps", guided_filter_eps_kernel, DeviceOf(like), blocks_for(images, kThreads), sums, items,
           images, results);
  }
};

}  // namespace
}  // namespace handgrad::guided_filter

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::guided_filter::implement<handgrad::guided_filter::OnCuda>(library);
}
