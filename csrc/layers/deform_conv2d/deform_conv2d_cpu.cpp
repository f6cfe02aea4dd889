// Deformable convolution on the CPU.
//
// For a tile of output positions (deform_conv2d_tiles.h) the samples of all taps and channels are written as a matrix,
// its columns, small enough for the second-level cache, and the weight is applied by torch's matmul; the matrix of a
// whole image, nine times its size for a 3x3 kernel, never exists. Backward (deform_conv2d_gradients.h) makes the
// columns again rather than keeping them: they cost less than the multiplications they feed.
//
// Channels are innermost in everything that is sampled (deform_conv2d_samples.h), so that a corner of a sample is one
// run of memory, and the work on it is vectorised across channels. An image that lies otherwise is rearranged band by
// band, the rows that the band looks at and no more.
//
// What bands contribute to one pixel or weight is added in their order: the result is the same, to the bit, for any
// number of threads.
//
// In order of appearance: Forward; the host entries.
#include "abi/registration.h"
#include "deform_conv2d_gradients.h"

namespace handgrad::deform_conv2d {
namespace {

template <class C>
class Forward {
 public:
  Forward(const Geometry& geometry, const Tensor& input, const Tensor& offset, const Tensor& weight,
          const std::optional<Tensor>& bias, const std::optional<Tensor>& mask, const Tensor& output)
      : geometry_(geometry),
        plan_(geometry, sizeof(C)),
        input_(stored_view<C, 4>(input)),
        offset_(stored_view<C, 4>(offset)),
        mask_(stored_view<C, 4>(mask)),
        output_(mutable_stored_view<C, 4>(output)),
        weight_(arranged_weight(geometry, stored_view<C, 4>(weight))),
        bias_(static_cast<size_t>(geometry.out_channels)) {
    if (bias) load_run(stored_view<C, 1>(*bias).first, bias->strides()[0], geometry.out_channels, bias_.data());
  }

  void run() const {
    for_each_lane(plan_, [&](int64_t, int64_t first, int64_t last) {
      Memory memory(geometry_, plan_);
      for (int64_t index = first; index < last; ++index) {
        const Band band(plan_, geometry_, index);
        const PixelRows<C> pixels(geometry_, input_, band.n, rows_of(geometry_, plan_, offset_, band));
        for_each_tile(plan_, band, [&](const Tile& tile) {
          load_offsets(geometry_, offset_, tile, true, memory.y, memory.x);
          if (mask_) memory.mask.load(geometry_, mask_, tile);
          for (int64_t group = 0; group < geometry_.groups; ++group) {
            make_columns(tile, group, pixels, memory);
            store_output(tile, group, memory);
          }
        });
      }
    });
  }

 private:
  // One thread's buffers for a tile.
  struct Memory {
    Planes<C> y, x, mask, output;
    ScratchVector<C> columns;

    Memory(const Geometry& geometry, const Plan& plan)
        : y(geometry.offset_groups * geometry.taps, plan.tile),
          x(geometry.offset_groups * geometry.taps, plan.tile),
          mask(geometry.offset_groups * geometry.taps, plan.tile),
          output(geometry.group_out, plan.tile),
          columns(static_cast<size_t>(plan.tile * plan.width)) {
      mask.fill(C(1));
    }
  };

  void make_columns(const Tile& tile, int64_t group, const PixelRows<C>& pixels, Memory& memory) const {
    const std::vector<Segment> segments = segments_of(geometry_, group);
    C* column = memory.columns.data();
    for (int64_t i = 0; i < tile.count; ++i) {
      for (int64_t t = 0; t < geometry_.taps; ++t) {
        for (const Segment& segment : segments) {
          const int64_t plane = segment.offset_group * geometry_.taps + t;
          const DeformedSample<C> sample(memory.y.at(plane, i), memory.x.at(plane, i), geometry_.height,
                                         geometry_.width);
          const C* corners[4];
          C weights[4];
          pixels.corners(sample, segment.channel, corners);
          for (int q = 0; q < 4; ++q) weights[q] = sample.weight(q, memory.mask.at(plane, i));
          sample_channels(segment.count, corners, weights, column);
          column += segment.count;
        }
      }
    }
  }

  void store_output(const Tile& tile, int64_t group, Memory& memory) const {
    const int64_t first = group * geometry_.group_out;
    cpu_matmul(cpu_matrix(memory.output.plane(0), geometry_.group_out, tile.count, plan_.tile, 1),
               cpu_matrix(weight_.data() + first * plan_.width, geometry_.group_out, plan_.width, plan_.width, 1),
               cpu_matrix(memory.columns.data(), plan_.width, tile.count, 1, plan_.width), false);
    for (int64_t k = 0; k < geometry_.group_out; ++k) {
      const int64_t o = first + k;
      store_with_bias(geometry_, memory.output.plane(k), bias_[static_cast<size_t>(o)], output_, tile, o);
    }
  }

  const Geometry& geometry_;
  const Plan plan_;
  const StoredView<const C, 4> input_;   // [N, C, H, W]
  const StoredView<const C, 4> offset_;  // [N, 2 * offset_groups * taps, out_h, out_w]
  const StoredView<const C, 4> mask_;    // [N, offset_groups * taps, out_h, out_w]
  const StoredView<C, 4> output_;        // [N, out_channels, out_h, out_w]
  const ScratchVector<C> weight_;
  ScratchVector<C> bias_;
};

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor deform_conv2d_cpu(const Tensor& input,                // [N, C, H, W]
                         const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
                         const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
                         const std::optional<Tensor>& bias,  // [out_channels]
                         const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
                         int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h,
                         int64_t dilation_w) {
  const Geometry geometry = check_arguments(input, offset, weight, bias, mask,
                                            {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  const Tensor output = empty_output(geometry, input);
  if (geometry.batch == 0) return output;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    Forward<typename decltype(tag)::type>(geometry, input, offset, weight, bias, mask, output).run();
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cpu(
    const Tensor& grad_output,          // [N, out_channels, out_h, out_w]
    const Tensor& input,                // [N, C, H, W]
    const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
    const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
    const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
    int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
    bool /*deterministic: always*/, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, offset, weight, std::nullopt, mask,
                                            {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(geometry, grad_output, input);
  const Gradients results = Gradients::backward(geometry, input, offset, weight, mask, output_mask);
  if (results.any()) {
    dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const Operands<C> operands(grad_output, input, offset, weight, mask, results);
      Differentiation<C, false>(geometry, operands).run();
    });
  }
  return {results.input, results.offset, results.weight, results.bias, results.mask};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_offset,
    const std::optional<Tensor>& grad_grad_weight, const std::optional<Tensor>& grad_grad_bias,
    const std::optional<Tensor>& grad_grad_mask,
    const Tensor& grad_output,          // [N, out_channels, out_h, out_w]
    const Tensor& input,                // [N, C, H, W]
    const Tensor& offset,               // [N, 2 * offset_groups * taps, out_h, out_w]
    const Tensor& weight,               // [out_channels, C / groups, kernel_h, kernel_w]
    const std::optional<Tensor>& mask,  // [N, offset_groups * taps, out_h, out_w]
    int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w,
    bool /*deterministic: always*/, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, offset, weight, std::nullopt, mask,
                                            {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(geometry, grad_output, input);
  const Directions along{grad_grad_input, grad_grad_offset, grad_grad_weight, grad_grad_bias, grad_grad_mask};
  check_directions(geometry, along, input, offset, weight, mask);
  Gradients results = Gradients::double_backward(geometry, input, offset, weight, mask, output_mask);
  results.clear_what_stands_still(along);
  if (results.any()) {
    dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Operands<C> operands(grad_output, input, offset, weight, mask, results);
      operands.set_directions(along);
      Differentiation<C, true>(geometry, operands).run();
    });
  }
  return {results.grad_output, results.input, results.offset, results.weight, results.mask};
}

}  // namespace
}  // namespace handgrad::deform_conv2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::deform_conv2d::deform_conv2d_cpu>(library, "deform_conv2d");
  handgrad::implement<handgrad::deform_conv2d::deform_conv2d_backward_cpu>(library, "_deform_conv2d_backward");
  handgrad::implement<handgrad::deform_conv2d::deform_conv2d_double_backward_cpu>(library,
                                                                                  "_deform_conv2d_double_backward");
}
