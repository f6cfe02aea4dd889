// Rectangles of images pasted one over another, on CUDA devices: a thread has some pixels of the output, in the
// arithmetic of the CPU, so that levels are the same.
//
// The gradient of a source is gathered: a thread has a pixel, and asks the rectangles that show its image, which a
// kernel before it has linked in their order. That of an opacity is summed block by block, in one order.
#include "paste_entries.h"
#include "paste_kernels.cuh"

namespace handgrad::paste {
namespace {

// ---- launches -------------------------------------------------------------------------------------------------------

// The bits of an element, in the memory of a double.
Fills as_bits(Fills fills, ScalarType dtype) {
  for (double& fill : fills.of) {
    const double number = fill;
    const auto put = [&](auto value) { std::memcpy(&fill, &value, sizeof value); };
    switch (dtype) {
      case ScalarType::Byte: put(static_cast<uint8_t>(number)); break;
      case ScalarType::Double: break;
      case ScalarType::BFloat16: put(narrow<BFloat16>(static_cast<float>(number))); break;
      case ScalarType::Half: put(narrow<Half>(static_cast<float>(number))); break;
      default: put(static_cast<float>(number));
    }
  }
  return fills;
}

template <class E>
void launch_copy(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
                 const Tensor& output) {
  const DeviceOf device(output);
  const Grid grid(frame.out_height * frame.out_width);
  const View<E, 4> to = detail::view_at<E, 4>(static_cast<E*>(output.mutable_data_ptr()), output);
  for_fills(fills, [&](const Fills& some) {
    launch("paste_copy", copy_kernel<E>, device, {frame.batch * grid.per_image, dim3(kThreads, 1, 1)}, frame, tables,
           SourceMemory(sources), as_bits(some, output.scalar_type()), grid.per_image, to);
  });
}

template <class Access, class N>
void launch_blend(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
                  const Sources& directions, const Tensor& output) {
  const DeviceOf device(output);
  const Grid grid(frame.out_height * frame.out_width);
  unsigned char* to = static_cast<unsigned char*>(output.mutable_data_ptr());
  const View<unsigned char, 4> layout = detail::view_at<unsigned char, 4>(to, output);
  for_fills(fills, [&](const Fills& some) {
    launch("paste_blend", blend_kernel<Access, N>, device, {frame.batch * grid.per_image, dim3(kThreads, 1, 1)}, frame,
           tables, SourceMemory(sources), SourceMemory(directions), some, grid.per_image, to, layout);
  });
}

template <class C, class N>
void launch_grad_sources(const Frame& frame, const Tables& tables, const Derivative& call, const DeviceOf& device) {
  if (std::none_of(call.wants.begin(), call.wants.end(), [](bool wanted) { return wanted; })) return;
  const int64_t count = frame.batch * frame.rectangles, links = count + kSources * frame.batch;
  const Tensor memory = empty_indices(links, call.grad_output);
  int64_t* firsts = memory.mutable_data_ptr<int64_t>();
  launch("paste_links", links_kernel, device, blocks_for(links, kThreads), frame, tables, firsts,
         firsts + kSources * frame.batch);
  for (int k = 0; k < kSources; ++k) {
    if (!call.wants[static_cast<size_t>(k)]) continue;
    launch("paste_grad_source", grad_source_kernel<C, N>, device,
           blocks_for(frame.batch * frame.heights[k] * frame.widths[k], kThreads), frame, tables, k,
           firsts + k * frame.batch, firsts + kSources * frame.batch, stored_view<C, 4>(call.grad_output),
           mutable_stored_view<C, 4>(call.grad(k)));
  }
}

template <class C, class N>
void launch_grad_opacity(const Frame& frame, const Tables& tables, const std::vector<double>& fills,
                         const Derivative& call, const DeviceOf& device) {
  const int64_t sums = frame.batch * frame.blended, launches = launches_of(fills);
  if (sums == 0) return;
  const Tensor partial = empty_vector<double>(launches * sums * kSumBlocks, call.grad_output);
  double* to = partial.mutable_data_ptr<double>();
  for_fills(fills, [&](const Fills& some) {
    launch("paste_grad_opacity", grad_opacity_kernel<C, N>, device, {sums * kSumBlocks, dim3(kThreads, 1, 1)}, frame,
           tables, SourceMemory(call.sources), SourceMemory(call.directions), some, stored_view<C, 4>(call.grad_output),
           to);
    to += sums * kSumBlocks;
  });
  launch("paste_sum_opacity", sum_opacity_kernel, device, blocks_for(sums, kThreads), sums, launches,
         partial.const_data_ptr<double>(), call.grad_opacity.mutable_data_ptr<double>());
}

struct OnCuda {
  static void copy(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
                   const Tensor& output) {
    const ScalarType dtype = output.scalar_type();
    if (dtype == ScalarType::Byte) return launch_copy<uint8_t>(frame, tables, fills, sources, output);
    if (dtype == ScalarType::Double) return launch_copy<unsigned long long>(frame, tables, fills, sources, output);
    if (dtype == ScalarType::Float) return launch_copy<uint32_t>(frame, tables, fills, sources, output);
    launch_copy<uint16_t>(frame, tables, fills, sources, output);
  }
  template <class T>
  static void blend(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Sources& sources,
                    const Tensor& output) {
    using Access = std::conditional_t<std::is_same_v<T, uint8_t>, Levels, Numbers<Compute<T>>>;
    launch_blend<Access, typename Access::C>(frame, tables, fills, sources, {}, output);
  }
  template <class C, class N>
  static void gradients(const Frame& frame, const Tables& tables, const std::vector<double>& fills,
                        const Derivative& call) {
    const DeviceOf device(call.grad_output);
    launch_grad_sources<C, N>(frame, tables, call, device);
    if (call.wants_output)
      launch_blend<Numbers<C>, Dual<C>>(frame, tables, fills, call.sources, call.directions, call.grad_grad_output);
    if (call.wants_opacity) launch_grad_opacity<C, N>(frame, tables, fills, call, device);
  }
};

}  // namespace
}  // namespace handgrad::paste

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::paste::implement<handgrad::paste::OnCuda>(library);
}
