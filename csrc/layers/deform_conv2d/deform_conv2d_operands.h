// What the backward and the double backward of a deformable convolution work with on the CPU: Operands, the tensors of
// a call; SampleWork, what is to be made of the samples; TileMemory, a thread's buffers.
#pragma once

#include "deform_conv2d_tiles.h"

namespace handgrad::deform_conv2d {

// Only the double backward has directions v. What is None, or not asked for, has no data.
template <class C>
struct Operands {
  StoredView<const C, 4> grad_output;  // [N, out_channels, out_h, out_w]
  StoredView<const C, 4> input;        // [N, C, H, W]
  StoredView<const C, 4> offset;       // [N, 2 * offset_groups * taps, out_h, out_w]
  StoredView<const C, 4> weight;       // [out_channels, C / groups, kernel_h, kernel_w]
  StoredView<const C, 4> mask;         // [N, offset_groups * taps, out_h, out_w]
  StoredView<const C, 4> v_input, v_offset, v_weight, v_mask;
  StoredView<const C, 1> v_bias;  // [out_channels]
  StoredView<C, 4> grad_grad_output, grad_input, grad_offset, grad_weight, grad_mask;
  StoredView<C, 1> grad_bias;  // [out_channels]

  Operands(const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
           const std::optional<Tensor>& mask, const Gradients& results)
      : grad_output(stored_view<C, 4>(grad_output)),
        input(stored_view<C, 4>(input)),
        offset(stored_view<C, 4>(offset)),
        weight(stored_view<C, 4>(weight)),
        mask(stored_view<C, 4>(mask)),
        grad_grad_output(mutable_stored_view_if<C, 4>(results.wants_grad_output, results.grad_output)),
        grad_input(mutable_stored_view_if<C, 4>(results.wants_input, results.input)),
        grad_offset(mutable_stored_view_if<C, 4>(results.wants_offset, results.offset)),
        grad_weight(mutable_stored_view_if<C, 4>(results.wants_weight, results.weight)),
        grad_mask(mutable_stored_view_if<C, 4>(results.wants_mask, results.mask)),
        grad_bias(mutable_stored_view_if<C, 1>(results.wants_bias, results.bias)) {}

  void set_directions(const Directions& along) {
    v_input = stored_view<C, 4>(along.input);
    v_offset = stored_view<C, 4>(along.offset);
    v_weight = stored_view<C, 4>(along.weight);
    v_bias = stored_view<C, 1>(along.bias);
    v_mask = stored_view<C, 4>(along.mask);
  }

  // Whether the samples move.
  bool moves() const { return v_input || v_offset || v_mask; }
};

// What is made of the samples: they themselves and how they move, what they add to the gradient of the image, and sums
// over channels for the gradients of offset and mask.
struct SampleWork {
  bool columns, scatter, sums;

  bool any() const { return columns || scatter || sums; }
  bool needs_grad_columns() const { return scatter || sums; }
};

// One thread's buffers for a tile. Only the double backward (Twice) has those of directions, v, and h.
template <class C, bool Twice>
struct TileMemory {
  Planes<C> y, x, mask, grad_output, grad_y, grad_x, grad_mask;
  Planes<C> v_y, v_x, v_mask, grad_grad_output;
  // [position, tap, channel]: the samples, their gradients, how they move, and h.
  ScratchVector<C> columns, grad_columns, v_columns, h_columns;
  // Channels of a pixel that does not move.
  ScratchVector<C> zeros;

  TileMemory(const Geometry& geometry, const Plan& plan, const SampleWork& work, bool needs_h)
      : TileMemory(plan.tile, geometry.offset_groups * geometry.taps, geometry.out_channels, geometry.group_out) {
    const size_t size = static_cast<size_t>(plan.tile * plan.width);
    if (work.columns) columns.resize(size);
    if (work.columns && Twice) v_columns.resize(size);
    if (work.needs_grad_columns()) grad_columns.resize(size);
    if (work.needs_grad_columns() && needs_h) h_columns.resize(size);
    zeros.resize(static_cast<size_t>(geometry.channels));
    mask.fill(C(1));
  }

 private:
  TileMemory(int64_t tile, int64_t planes, int64_t out_channels, int64_t group_out)
      : y(planes, tile),
        x(planes, tile),
        mask(planes, tile),
        grad_output(out_channels, tile),
        grad_y(planes, tile),
        grad_x(planes, tile),
        grad_mask(planes, tile),
        v_y(Twice ? planes : 0, tile),
        v_x(Twice ? planes : 0, tile),
        v_mask(Twice ? planes : 0, tile),
        grad_grad_output(Twice ? group_out : 0, tile) {}
};

}  // namespace handgrad::deform_conv2d
