// The same on the CPU.
//
// Channels are innermost, in blocks of a few vectors (cpu/channel_blocks.h). A block of an image is brought into the
// order (row, column, channel) if it does not lie so, as far as boxes reach, and then all boxes of the image pass over
// it. One block of one image is one thread's: so the gradient of the image is summed by one thread in the order of
// boxes, and its memory beside the results is one block.
//
// An op brings its passes:
//
//   struct MyPasses {
//     template <class Geometry, class C>
//     static void forward(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands);
//     template <bool Twice, class Geometry, class C>
//     static void differentiate(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands);
//   };
//
// In order of appearance: Operands, the tensors of a call; ImageBlock, what a thread has of them; OnCpu.
#pragma once

#include <limits>

#include "cpu/box_bins.h"
#include "kinds/sampled_roi.h"

namespace handgrad::sampled_roi {

// The tensors of a call; what is None, or not asked for, has no data.
template <class C>
struct Operands {
  StoredView<const C, 4> input;        // [N, C, H, W]
  StoredView<const C, 4> grad_output;  // [K, C, pooled_h, pooled_w]
  StoredView<const C, 4> v_input;      // [N, C, H, W], the direction grad_grad_input
  View<const C, 2> v_boxes;            // [K, columns], the direction grad_grad_boxes
  StoredView<C, 4> output;             // [K, C, pooled_h, pooled_w]; in the double backward, its change
  StoredView<C, 4> grad_input;         // [N, C, H, W]
  View<C, 2> grad_boxes;               // [K, columns]
};

// A block of channels of an image, channels innermost, and the bins of a box in these channels.
template <class C, int64_t Width>
class ImageBlock {
 public:
  BinTile<C, Width> tile;
  Transposer<Width, C> transposer;
  ChannelBlock block{};
  BlockPlane<const C> input, v_input;
  BlockPlane<C> grad_input;

  ImageBlock(const RoiGeometry& geometry, const Operands<C>& operands)
      : tile(geometry.pooled_h, geometry.pooled_w),
        transposer(std::max<int64_t>(geometry.width, tile.bins())),
        geometry_(geometry),
        operands_(operands) {}

  // The image if it is wanted, and what there is of its direction and of its gradient, which begins with zeros.
  void load(const ChannelBlock& of_image, const PixelWindow& window, bool wants_input) {
    block = of_image, window_ = window;
    if (wants_input) input = load_block<Width>(operands_.input, block, window, input_memory_, transposer);
    if (operands_.v_input) v_input = load_block<Width>(operands_.v_input, block, window, v_memory_, transposer);
    if (operands_.grad_input) {
      grad_input =
          clear_block<Width>(operands_.grad_input, geometry_.height, geometry_.width, block, window, grad_memory_);
    }
  }
  void store() {
    if (!operands_.grad_input) return;
    store_block<Width>(grad_input, operands_.grad_input, geometry_.height, geometry_.width, block, window_, transposer);
  }

 private:
  const RoiGeometry& geometry_;
  const Operands<C>& operands_;
  PixelWindow window_;
  ScratchVector<C> input_memory_, v_memory_, grad_memory_;
};

// What a bin begins with.
template <class C>
C initial_value(bool is_nonfinite) {
  return is_nonfinite ? std::numeric_limits<C>::quiet_NaN() : C(0);
}

template <class Passes>
struct OnCpu {
  template <class Geometry>
  static void forward(const Geometry& geometry, const Tensor& input, const Tensor& boxes, const Tensor& output) {
    dispatch_compute(geometry.op, input.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Operands<C> operands;
      operands.input = stored_view<C, 4>(input);
      operands.output = mutable_stored_view<C, 4>(output);
      Passes::forward(geometry, boxes, operands);
    });
  }

  template <class Geometry>
  static void backward(const Geometry& geometry, const Differentiated& tensors, const RoiGradients& results) {
    with_operands(geometry.op, tensors, results,
                  [&](auto operands) { Passes::template differentiate<false>(geometry, tensors.boxes, operands); });
  }

  template <class Geometry>
  static void double_backward(const Geometry& geometry, const Differentiated& tensors,
                              const RoiSecondGradients& results) {
    with_operands(geometry.op, tensors, results, [&](auto operands) {
      using C = std::remove_pointer_t<decltype(operands.grad_boxes.data)>;
      operands.v_input = stored_view<C, 4>(tensors.v_input);
      operands.v_boxes = view<C, 2>(tensors.v_boxes);
      operands.output = mutable_stored_view_if<C, 4>(results.wants_grad_output, results.grad_grad_output);
      Passes::template differentiate<true>(geometry, tensors.boxes, operands);
    });
  }

 private:
  template <class Body>
  static void with_operands(const char* op, const Differentiated& tensors, const RoiGradients& results,
                            const Body& body) {
    dispatch_compute(op, tensors.input.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      Operands<C> operands;
      operands.input = stored_view<C, 4>(tensors.input);
      operands.grad_output = stored_view<C, 4>(tensors.grad_output);
      operands.grad_input = mutable_stored_view_if<C, 4>(results.wants_input, results.grad_input);
      operands.grad_boxes = mutable_view_if<C, 2>(results.wants_boxes, results.grad_boxes);
      body(operands);
    });
  }
};

}  // namespace handgrad::sampled_roi
