// A median filter on CUDA devices (median_filter_kernels.cuh): the choice of tiles, and launches.
#include "cuda/scratch_blocks.cuh"
#include "median_filter_kernels.cuh"

namespace handgrad::median_filter {
namespace {

// Rows and columns of tiles, from the largest on: the first that leaves room for four blocks is taken, or for one.
constexpr int32_t kTiles[][2] = {{32, 32}, {16, 32}, {8, 32}, {8, 8}};

struct OnCuda {
  template <class C>
  static void run(const Geometry& geometry, Pass pass, const Tensor& input, const Tensor& source,
                  const Tensor& output) {
    const DeviceOf device(input);
    const DeviceCall<C> call = device_call<C>(geometry, pass, input, source, output);
    for_blocks_with_scratch<C>(call.items, call.scratch(), kThreads, input,
                               [&](int64_t first, const Blocks& blocks, C* global) {
                                 launch(kOp, median_kernel<C>, device, blocks, call, first, global);
                               });
  }

 private:
  template <class C>
  static DeviceCall<C> device_call(const Geometry& geometry, Pass pass, const Tensor& input, const Tensor& source,
                                   const Tensor& output) {
    const int64_t limit = shared_memory_limit();
    for (const int64_t room : {limit / 4, limit}) {
      for (const auto& [height, width] : kTiles) {
        const DeviceCall<C> call(geometry, pass, input, source, output, height, width);
        if (call.scratch() * static_cast<int64_t>(sizeof(C)) <= room) return call;
      }
    }
    return DeviceCall<C>(geometry, pass, input, source, output, kTiles[0][0], kTiles[0][1]);
  }
};

}  // namespace
}  // namespace handgrad::median_filter

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::median_filter::implement<handgrad::median_filter::OnCuda>(library);
}
