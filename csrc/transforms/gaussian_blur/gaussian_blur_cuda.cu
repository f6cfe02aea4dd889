// Gaussian blur on CUDA devices (gaussian_blur_kernels.cuh): the choice of tiles, and launches.
#include "gaussian_blur_kernels.cuh"

namespace handgrad::gaussian_blur {
namespace {

// Columns and rows of tiles, from the largest on: the first that leaves room for four blocks is taken, or for one.
constexpr int32_t kTiles[][2] = {{64, 64}, {64, 32}, {32, 32}, {32, 16}, {16, 16}, {16, 8}};
// The most bytes of scratch in global memory, for windows that fit no shared memory.
constexpr int64_t kMostScratch = int64_t{256} << 20;

template <class In, class C>
DeviceCall<In, C> device_call(const Geometry& geometry, const Pass& pass) {
  const int64_t limit = shared_memory_limit();
  for (const int64_t room : {limit / 4, limit}) {
    for (const auto& [width, height] : kTiles) {
      const DeviceCall<In, C> call(geometry, pass, width, height);
      if (call.scratch() * static_cast<int64_t>(sizeof(C)) <= room) return call;
    }
  }
  return DeviceCall<In, C>(geometry, pass, kTiles[0][0], kTiles[0][1]);
}

template <class In, class C>
void run_pass(const Geometry& geometry, const SigmaTable& table, const Pass& pass, const Operands& operands) {
  const Tensor& image = *operands.sources[0];
  const DeviceOf device(image);
  const int64_t sets = table.sigma ? geometry.batch : 1;
  const Tensor filters = empty_vector<C>(sets * geometry.filters(), image);
  launch("gaussian_blur_filters", filters_kernel<C>, device, {2 * sets, dim3(kThreads, 1, 1)}, geometry, table,
         filters.template mutable_data_ptr<C>());
  DeviceCall<In, C> call = device_call<In, C>(geometry, pass);
  call.filters = filters.template const_data_ptr<C>();
  call.filter_step = table.sigma ? geometry.filters() : 0;
  if constexpr (sizeof(In) == 1) {
    call.sources[0] = view<uint8_t, 4>(image);
    call.output = mutable_view<uint8_t, 4>(*operands.output);
  } else {
    for (int k = 0; k < pass.sources; ++k) call.sources[k] = stored_view<C, 4>(*operands.sources[k]);
    if (operands.weight) call.weight = stored_view<C, 4>(*operands.weight);
    if (operands.output) call.output = mutable_stored_view<C, 4>(*operands.output);
  }
  const int64_t bytes = call.scratch() * static_cast<int64_t>(sizeof(C));
  const bool fits = bytes <= shared_memory_limit();
  const int64_t most = fits ? INT32_MAX : std::clamp<int64_t>(kMostScratch / bytes, 1, kGlobalScratchBlocks);
  std::optional<Tensor> global, sums;
  if (!fits) global = empty_vector<C>(std::min(call.items, most) * call.scratch(), image);
  if (operands.sums) sums = empty_vector<double>(2 * call.items, image);
  for (int64_t first = 0; first < call.items; first += most) {
    launch("gaussian_blur_pass", pass_kernel<In, C>, device,
           {std::min(most, call.items - first), dim3(kThreads, 1, 1), fits ? bytes : 0}, call, first,
           global ? global->template mutable_data_ptr<C>() : nullptr,
           sums ? sums->template mutable_data_ptr<double>() : nullptr);
  }
  if (!operands.sums) return;
  launch("gaussian_blur_sums", sums_kernel, device, blocks_for(2 * geometry.batch, kThreads),
         sums->template const_data_ptr<double>(), call.items / geometry.batch, geometry.batch,
         mutable_view<double, 2>(*operands.sums));
}

struct OnCuda {
  static void run(const Geometry& geometry, const SigmaTable& table, const Pass& pass, const Operands& operands) {
    switch (operands.sources[0]->scalar_type()) {
      case ScalarType::Byte: return run_pass<uint8_t, float>(geometry, table, pass, operands);
      case ScalarType::Double: return run_pass<double, double>(geometry, table, pass, operands);
      default: run_pass<float, float>(geometry, table, pass, operands);
    }
  }
};

}  // namespace
}  // namespace handgrad::gaussian_blur

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::gaussian_blur::implement<handgrad::gaussian_blur::OnCuda>(library);
}
