// RoIAlign on the CPU.
//
// What a bin weighs pixels by is the same for all channels (roi_align_taps.h), so channels are innermost, in blocks of
// a few vectors (cpu/channel_blocks.h): a block of an image is brought into the order (row, column, channel) if it does
// not lie so, as far as boxes reach, and then all boxes of the image pass over it (roi_align_bins.h).
//
// One block of one image is one thread's. So the gradient of the image is summed by one thread in the order of boxes,
// and its memory beside the results is one block.
//
// In order of appearance: Operands, the tensors of a call; Scratch, a thread's memory; Forward, First and Second, the
// passes; the host entries.
#include <limits>

#include "abi/registration.h"
#include "roi_align_bins.h"

namespace handgrad::roi_align {
namespace {

// The tensors of a call; what is None, or not asked for, has no data. `boxes` are in TapsByImage.
template <class C>
struct Operands {
  StoredView<const C, 4> input;        // [N, C, H, W]
  StoredView<const C, 4> grad_output;  // [K, C, pooled_h, pooled_w]
  StoredView<const C, 4> v_input;      // [N, C, H, W], the direction grad_grad_input
  View<const C, 2> v_boxes;            // [K, 5], the direction grad_grad_boxes
  StoredView<C, 4> output;             // [K, C, pooled_h, pooled_w]; in the double backward, its change
  StoredView<C, 4> grad_input;         // [N, C, H, W]
  View<C, 2> grad_boxes;               // [K, 5]
};

template <class C, int64_t Width>
struct Scratch {
  BinTile<C, Width> tile;
  Transposer<Width, C> transposer;
  ScratchVector<C> input, v_input, grad_input;

  explicit Scratch(const Geometry& geometry)
      : tile(geometry.pooled_h, geometry.pooled_w), transposer(std::max<int64_t>(geometry.width, tile.bins())) {}
};

// What a bin begins with.
template <class C>
C initial_value(const BoxTaps<C>& taps) {
  return taps.is_nonfinite ? std::numeric_limits<C>::quiet_NaN() : C(0);
}

template <class C, int64_t Width>
class Forward {
 public:
  Forward(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry), operands_(operands), scratch_(geometry) {}

  void begin(const ChannelBlock& block, const PixelWindow& window) {
    block_ = block;
    plane_ = load_block<Width>(operands_.input, block, window, scratch_.input, scratch_.transposer);
  }

  void box(int64_t k, const BoxTaps<C>& taps) {
    scratch_.tile.for_each([&](int64_t p, int64_t count) {
      scratch_.tile.fill(initial_value(taps));
      for (int64_t y = 0; y < count; ++y) {
        for (int64_t x = 0; x < geometry_.pooled_w; ++x) {
          gather_bin<Width, false>(plane_, taps.rows(p + y), taps.columns(x), Box<C>{}, scratch_.tile.at(y, x));
        }
      }
      scratch_.tile.store(operands_.output, k, block_, p, count, scratch_.transposer);
    });
  }

  void end() {}

 private:
  const Geometry& geometry_;
  const Operands<C>& operands_;
  Scratch<C, Width> scratch_;
  ChannelBlock block_{};
  BlockPlane<const C> plane_;
};

// The gradients of boxes, [block of channels, K, 4], before they are summed over blocks.
template <class C, int64_t Width>
class BoxGradients {
 public:
  BoxGradients(const Geometry& geometry, bool wanted)
      : boxes_(geometry.boxes),
        blocks_(wanted ? (geometry.channels + Width - 1) / Width : 0),
        partial_(static_cast<size_t>(blocks_ * boxes_ * 4)) {}

  C* at(int64_t block, int64_t k) { return partial_.data() + (block * boxes_ + k) * 4; }

  // Blocks are added in their order. The batch index has no gradient.
  void store(const View<C, 2>& grad_boxes) {
    for (int64_t k = 0; k < boxes_; ++k) {
      *grad_boxes.at(k, 0) = 0;
      for (int64_t d = 0; d < 4; ++d) {
        double sum = 0;
        for (int64_t b = 0; b < blocks_; ++b) sum += static_cast<double>(at(b, k)[d]);
        *grad_boxes.at(k, d + 1) = static_cast<C>(sum);
      }
    }
  }

 private:
  int64_t boxes_, blocks_;
  ScratchVector<C> partial_;
};

// The backward, and for Twice the double backward.
template <class C, int64_t Width, bool Twice>
class Differentiation {
 public:
  Differentiation(const Geometry& geometry, const Operands<C>& operands, BoxGradients<C, Width>& box_gradients)
      : geometry_(geometry),
        operands_(operands),
        box_gradients_(box_gradients),
        scratch_(geometry),
        scatters_(operands.grad_input),
        differentiates_(operands.grad_boxes) {
    if (Twice) change_.emplace(geometry.pooled_h, geometry.pooled_w);
  }

  void begin(const ChannelBlock& block, const PixelWindow& window) {
    block_ = block, window_ = window;
    const Operands<C>& from = operands_;
    if (differentiates_ || from.v_boxes) {
      plane_ = load_block<Width>(from.input, block, window, scratch_.input, scratch_.transposer);
    }
    if (from.v_input) {
      v_plane_ = load_block<Width>(from.v_input, block, window, scratch_.v_input, scratch_.transposer);
    }
    if (scatters_) {
      grad_plane_ =
          clear_block<Width>(from.grad_input, geometry_.height, geometry_.width, block, window, scratch_.grad_input);
    }
  }

  void box(int64_t k, const BoxTaps<C>& taps) {
    CoordinateSums<C, Width> sums;
    Box<C> motion{};
    const View<const C, 2>& v = operands_.v_boxes;
    if (v) motion = {*v.at(k, 1), *v.at(k, 2), *v.at(k, 3), *v.at(k, 4)};
    scratch_.tile.for_each([&](int64_t p, int64_t count) {
      if (scatters_ || differentiates_) {
        scratch_.tile.load(operands_.grad_output, k, block_, p, count, scratch_.transposer);
      }
      if constexpr (Twice) change_->fill(initial_value(taps));
      for (int64_t y = 0; y < count; ++y) {
        for (int64_t x = 0; x < geometry_.pooled_w; ++x) {
          bin(taps.rows(p + y), taps.columns(x), motion, scratch_.tile.at(y, x), Twice ? change_->at(y, x) : nullptr,
              sums);
        }
      }
      if (operands_.output) change_->store(operands_.output, k, block_, p, count, scratch_.transposer);
    });
    if (differentiates_) sums.store(box_gradients_.at(block_.first / Width, k));
  }

  void end() {
    if (!scatters_) return;
    store_block<Width>(grad_plane_, operands_.grad_input, geometry_.height, geometry_.width, block_, window_,
                       scratch_.transposer);
  }

 private:
  [[gnu::always_inline]] void bin(const Taps<C>& rows, const Taps<C>& columns, const Box<C>& motion, const C* grad,
                                  C* change, CoordinateSums<C, Width>& sums) const {
    if (scatters_) scatter_bin<Width, Twice>(grad, rows, columns, motion, grad_plane_);
    if constexpr (!Twice) {
      if (differentiates_) differentiate_bin<Width>(plane_, rows, columns, grad, sums);
    } else if (differentiates_) {
      // Of this the change is a part.
      differentiate_bin_twice<Width>(plane_, v_plane_, rows, columns, motion, grad, change, sums);
    } else if (operands_.output) {
      if (operands_.v_boxes) gather_bin<Width, true>(plane_, rows, columns, motion, change);
      if (operands_.v_input) gather_bin<Width, false>(v_plane_, rows, columns, motion, change);
    }
  }

  const Geometry& geometry_;
  const Operands<C>& operands_;
  BoxGradients<C, Width>& box_gradients_;
  Scratch<C, Width> scratch_;
  std::optional<BinTile<C, Width>> change_;
  // What is made of the bins: a gradient of the image, one of the boxes.
  const bool scatters_, differentiates_;
  ChannelBlock block_{};
  PixelWindow window_;
  BlockPlane<const C> plane_, v_plane_;
  BlockPlane<C> grad_plane_;
};

template <bool Twice, class C>
void differentiate(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
  const TapsByImage<C> taps = taps_of<C>(geometry, boxes);
  dispatch_width(geometry.channels, [&](auto width) {
    constexpr int64_t Width = width.value;
    BoxGradients<C, Width> box_gradients(geometry, static_cast<bool>(operands.grad_boxes));
    for_each_box<Width>(geometry, taps,
                        [&] { return Differentiation<C, Width, Twice>(geometry, operands, box_gradients); });
    if (operands.grad_boxes) box_gradients.store(operands.grad_boxes);
  });
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor roi_align_cpu(const Tensor& input,  // [N, C, H, W]
                     const Tensor& boxes,  // [K, 5]
                     int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const Geometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned);
  const Tensor output = empty_output(geometry, input);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    const TapsByImage<C> taps = taps_of<C>(geometry, boxes);
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.output = mutable_stored_view<C, 4>(output);
    dispatch_width(geometry.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      for_each_box<Width>(geometry, taps, [&] { return Forward<C, Width>(geometry, operands); });
    });
  });
  return output;
}

std::tuple<Tensor, Tensor> roi_align_backward_cpu(const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                                  const Tensor& input,        // [N, C, H, W]
                                                  const Tensor& boxes,        // [K, 5]
                                                  int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                  int64_t sampling_ratio, bool aligned,
                                                  const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned);
  check_grad_output(geometry, grad_output, input);
  const RoiGradients results(input, boxes, as_output_mask<2>(kOp, output_mask));
  if (results.is_done()) return {results.grad_input, results.grad_boxes};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.grad_output = stored_view<C, 4>(grad_output);
    operands.grad_input = mutable_stored_view_if<C, 4>(results.wants_input, results.grad_input);
    operands.grad_boxes = mutable_view_if<C, 2>(results.wants_boxes, results.grad_boxes);
    differentiate<false>(geometry, boxes, operands);
  });
  return {results.grad_input, results.grad_boxes};
}

std::tuple<Tensor, Tensor, Tensor> roi_align_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
    const std::optional<Tensor>& grad_grad_boxes,  // [K, 5]
    const Tensor& grad_output,                     // [K, C, pooled_h, pooled_w]
    const Tensor& input,                           // [N, C, H, W]
    const Tensor& boxes,                           // [K, 5]
    int64_t pooled_h, int64_t pooled_w, double spatial_scale, int64_t sampling_ratio, bool aligned,
    const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale, sampling_ratio, aligned);
  check_grad_output(geometry, grad_output, input);
  const RoiSecondGradients results(geometry, grad_grad_input, grad_grad_boxes, input, boxes,
                                   as_output_mask<3>(kOp, output_mask));
  if (results.is_done()) return {results.grad_grad_output, results.grad_input, results.grad_boxes};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.grad_output = stored_view<C, 4>(grad_output);
    operands.v_input = stored_view<C, 4>(grad_grad_input);
    operands.v_boxes = view<C, 2>(grad_grad_boxes);
    operands.output = mutable_stored_view_if<C, 4>(results.wants_grad_output, results.grad_grad_output);
    operands.grad_input = mutable_stored_view_if<C, 4>(results.wants_input, results.grad_input);
    operands.grad_boxes = mutable_view_if<C, 2>(results.wants_boxes, results.grad_boxes);
    differentiate<true>(geometry, boxes, operands);
  });
  return {results.grad_grad_output, results.grad_input, results.grad_boxes};
}

}  // namespace
}  // namespace handgrad::roi_align

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::roi_align::roi_align_cpu>(library, "roi_align");
  handgrad::implement<handgrad::roi_align::roi_align_backward_cpu>(library, "_roi_align_backward");
  handgrad::implement<handgrad::roi_align::roi_align_double_backward_cpu>(library, "_roi_align_double_backward");
}
