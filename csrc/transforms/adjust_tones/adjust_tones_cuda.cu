// A chain of operations on the tones of images on CUDA devices. Of levels: their counts, a table of each channel, and a
// pass that looks levels up. Of numbers: for each autocontrast and equalize a pass that applies the steps before it,
// and one for the output. Where the operations are in a table on the device every step may be one of these, and such
// passes are launched for each; they read no pixel of an image whose step is another.
//
// Gradients take two passes more for each autocontrast, over the pixels that are the ends of their channel and over
// what all pixels contribute to the gradients of these.
#include "adjust_tones_kernels.cuh"

namespace handgrad::adjust_tones {
namespace {

// ---- launches -------------------------------------------------------------------------------------------------------

Blocks block_per(int64_t count) { return {count, dim3(kThreads, 1, 1)}; }

// A chain on the device, and the memory of what kernels find out.
struct DeviceChain {
  const Geometry& geometry;
  const Arguments& arguments;
  DeviceOf device;
  int64_t blocks;  // that share a plane
  Tensor counts, ends, sums, partial, tables;
  Chain chain;

  DeviceChain(const Geometry& geometry, const Arguments& arguments, const Tensor& image)
      : geometry(geometry), arguments(arguments), device(image) {
    blocks = std::min(kSumBlocks, (geometry.pixels() + kThreads - 1) / kThreads);
    chain = {{arguments, geometry.steps}, geometry.channels, nullptr, nullptr, nullptr};
  }

  // Blocks that share a plane where numbers are made of it.
  int64_t makers() const { return (geometry.pixels() + kThreads * kPixels - 1) / (kThreads * kPixels); }

  bool may_have(Operation operation) const {
    for (int64_t k = 0; k < geometry.steps; ++k) {
      if (may_be(arguments, k, operation)) return true;
    }
    return false;
  }
  bool may_need_counts(bool levels) const {
    return may_have(Operation::equalize) || (levels && may_have(Operation::autocontrast));
  }

  static Key* keys(const Tensor& tensor) { return reinterpret_cast<Key*>(tensor.mutable_data_ptr<int64_t>()); }

  // `count` tables of each plane.
  void allocate_tables(int64_t count, const Tensor& image) {
    counts = empty_indices(geometry.planes() * kLevels, image);
    tables = empty_indices(geometry.planes() * count * kLevels / 8, image);
    chain.tables = reinterpret_cast<uint8_t*>(tables.mutable_data_ptr<int64_t>());
  }
  void allocate_ends(const Tensor& image, bool with_sums) {
    ends = empty_indices(geometry.planes() * geometry.steps * 2, image);
    fill_zero(ends);
    chain.ends = keys(ends);
    if (!with_sums) return;
    sums = empty_vector<double>(geometry.planes() * geometry.steps * 2 * kSums, image);
    partial = empty_vector<double>(geometry.planes() * blocks * kWarps * kSums, image);
    fill_zero(sums);
    chain.sums = sums.mutable_data_ptr<double>();
  }

  void launch_tables(int64_t first, int64_t last, int64_t count) const {
    launch("adjust_tones_tables", tables_kernel, device, block_per(geometry.planes()), geometry, chain, first, last,
           keys(counts), count * kLevels);
  }

  // Of numbers, one step after the other. N: dual where tangents of the ends are needed.
  template <class N>
  void find_out(const ToneSource<N>& image, bool only_sloping) const {
    using C = Plain<N>;
    for (int64_t k = 0; k < geometry.steps; ++k) {
      const bool equalizes = !only_sloping && may_be(arguments, k, Operation::equalize);
      const bool stretches = may_be(arguments, k, Operation::autocontrast);
      if (!equalizes && !stretches) continue;
      if (equalizes) fill_zero(counts);
      launch("adjust_tones_statistics", statistics_kernel<C>, device, block_per(geometry.planes() * blocks), geometry,
             chain, ToneSource<C>{image.values, {}}, k, blocks, only_sloping, equalizes ? keys(counts) : nullptr);
      if (equalizes) {
        Chain own = chain;
        own.tables += k * kLevels;
        launch("adjust_tones_tables", tables_kernel, device, block_per(geometry.planes()), geometry, own, k, k + 1,
               keys(counts), geometry.steps * kLevels);
      }
      if (only_sloping && stretches) launch_sums<N, false>(image, {}, k);
    }
  }

  template <class N, bool kGradients>
  void launch_sums(const ToneSource<N>& image, const StoredView<const Plain<N>, 4>& grads, int64_t k) const {
    launch("adjust_tones_sums", sums_kernel<N, kGradients>, device, block_per(geometry.planes() * blocks), geometry,
           chain, image, grads, k, blocks, partial.mutable_data_ptr<double>());
    launch("adjust_tones_fold", fold_kernel, device, blocks_for(geometry.planes(), kThreads), geometry, chain, k,
           blocks, int64_t{kGradients ? 1 : 0}, partial.const_data_ptr<double>());
  }
};

// ---- passes --------------------------------------------------------------------------------------------------------

struct OnCuda {
  static void levels(const Geometry& geometry, const Arguments& arguments, const Tensor& image, const Tensor& output) {
    DeviceChain made(geometry, arguments, image);
    const View<const uint8_t, 4> levels = view<uint8_t, 4>(image);
    if (made.may_need_counts(true)) {
      made.allocate_tables(1, image);
      fill_zero(made.counts);
      launch("adjust_tones_histogram", histogram_kernel, made.device, block_per(geometry.planes() * made.blocks),
             geometry, made.chain, levels, made.blocks, DeviceChain::keys(made.counts));
      made.launch_tables(0, geometry.steps, 1);
    }
    launch("adjust_tones_levels", levels_kernel, made.device, blocks_for(geometry.batch * geometry.pixels(), kThreads),
           geometry, made.chain, levels, mutable_view<uint8_t, 4>(output));
  }

  template <class C>
  static void numbers(const Geometry& geometry, const Arguments& arguments, const Tensor& image, const Tensor& output) {
    DeviceChain made(geometry, arguments, image);
    if (made.may_need_counts(false)) made.allocate_tables(geometry.steps, image);
    if (made.may_have(Operation::autocontrast)) made.allocate_ends(image, false);
    const ToneSource<C> source{stored_view<C, 4>(image), {}};
    made.find_out(source, false);
    launch("adjust_tones_numbers", numbers_kernel<C>, made.device, block_per(geometry.planes() * made.makers()),
           geometry, made.chain, source, made.makers(), mutable_stored_view<C, 4>(output));
  }

  template <class N>
  static void gradients(const Geometry& geometry, const Arguments& arguments, const Derivative& call) {
    using C = Plain<N>;
    DeviceChain made(geometry, arguments, *call.image);
    ToneSource<N> source{stored_view<C, 4>(*call.image), {}};
    if (call.direction) source.tangents = stored_view<C, 4>(*call.direction);
    const StoredView<const C, 4> grads = stored_view<C, 4>(*call.grad_output);
    if (made.may_have(Operation::autocontrast)) {
      made.allocate_ends(*call.image, true);
      made.find_out(source, true);
      for (int64_t k = geometry.steps; k-- > 0;) {
        if (call.wants_image && may_be(arguments, k, Operation::autocontrast))
          made.template launch_sums<N, true>(source, grads, k);
      }
    }
    launch("adjust_tones_gradients", gradients_kernel<N>, made.device, block_per(geometry.planes() * made.makers()),
           geometry, made.chain, source, grads, made.makers(),
           mutable_stored_view_if<C, 4>(call.wants_image, call.grad_image),
           mutable_stored_view_if<C, 4>(call.wants_output, call.grad_grad_output));
  }
};

}  // namespace
}  // namespace handgrad::adjust_tones

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::adjust_tones::implement<handgrad::adjust_tones::OnCuda>(library);
}
