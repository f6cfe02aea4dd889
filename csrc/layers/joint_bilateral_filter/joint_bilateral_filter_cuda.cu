// A bilateral filter on CUDA devices (joint_bilateral_filter_kernels.cuh): the choice of tiles, and launches.
#include "cuda/scratch_blocks.cuh"
#include "joint_bilateral_filter_kernels.cuh"

namespace handgrad::joint_bilateral_filter {
namespace {

// Rows and columns of tiles, from the largest on: the first that leaves room for four blocks is taken, or for one.
constexpr int32_t kTiles[][2] = {{16, 32}, {8, 32}, {8, 16}, {8, 8}};
template <class N>
DeviceCall<N> device_call(const Geometry& geometry, const SigmaTable& table, const Operands& operands) {
  const int64_t limit = shared_memory_limit();
  for (const int64_t room : {limit / 4, limit}) {
    for (const auto& [height, width] : kTiles) {
      const DeviceCall<N> call(geometry, table, operands, height, width);
      if (call.scratch() * static_cast<int64_t>(sizeof(Plain<N>)) <= room) return call;
    }
  }
  return DeviceCall<N>(geometry, table, operands, kTiles[0][0], kTiles[0][1]);
}

struct OnCuda {
  template <class N>
  static void forward(const Geometry& geometry, const SigmaTable& table, const Operands& operands) {
    const DeviceOf device(*operands.input);
    const DeviceCall<N> call = device_call<N>(geometry, table, operands);
    for_blocks_with_scratch<Plain<N>>(call.items, call.scratch(), kThreads, *operands.input,
                                      [&](int64_t first, const Blocks& blocks, Plain<N>* global) {
                                        launch("joint_bilateral_filter", value_kernel<N>, device, blocks, call, first,
                                               global);
                                      });
  }
  template <class N>
  static void backward(const Geometry& geometry, const SigmaTable& table, const Operands& operands) {
    const DeviceOf device(*operands.input);
    Operands without = operands;
    without.output = nullptr;
    const DeviceCall<N> call = device_call<N>(geometry, table, without);
    std::optional<Tensor> sums;
    if (operands.grad_sigma) sums = empty_vector<double>(6 * call.items, *operands.input);
    double* const partial = sums ? sums->template mutable_data_ptr<double>() : nullptr;
    for_blocks_with_scratch<Plain<N>>(call.items, call.scratch(), kThreads, *operands.input,
                                      [&](int64_t first, const Blocks& blocks, Plain<N>* global) {
                                        launch("joint_bilateral_filter_gradients", gradient_kernel<N>, device, blocks,
                                               call, first, global, partial);
                                      });
    if (!sums) return;
    launch("joint_bilateral_filter_sigma", sigma_kernel<N>, device, blocks_for(3 * geometry.batch, kThreads),
           sums->template const_data_ptr<double>(), call.items / geometry.batch, geometry.batch, table,
           mutable_view<double, 2>(*operands.grad_sigma));
  }
};

}  // namespace
}  // namespace handgrad::joint_bilateral_filter

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::joint_bilateral_filter::implement<handgrad::joint_bilateral_filter::OnCuda>(library);
}
