// RoIAlign on the CPU.
//
// What a bin weighs pixels by is the same for all channels (roi_align_taps.h): so channels are innermost, in blocks
// over which all boxes of an image pass (kinds/sampled_roi_cpu.h, roi_align_bins.h).
//
// In order of appearance: Forward; BoxGradients and Differentiation, for first and second derivatives; Passes.
#include "kinds/sampled_roi_cpu.h"
#include "roi_align_bins.h"

namespace handgrad::roi_align {
namespace {

using sampled_roi::ImageBlock;
using sampled_roi::initial_value;
using sampled_roi::Operands;

template <class C, int64_t Width>
class Forward {
 public:
  Forward(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry), operands_(operands), image_(geometry, operands) {}

  void begin(const ChannelBlock& block, const PixelWindow& window) { image_.load(block, window, true); }

  void box(int64_t k, const BoxTaps<C>& taps) {
    image_.tile.for_each([&](int64_t p, int64_t count) {
      image_.tile.fill(initial_value<C>(taps.is_nonfinite));
      for (int64_t y = 0; y < count; ++y) {
        for (int64_t x = 0; x < geometry_.pooled_w; ++x) {
          gather_bin<Width, false>(image_.input, taps.rows(p + y), taps.columns(x), Box<C>{}, image_.tile.at(y, x));
        }
      }
      image_.tile.store(operands_.output, k, image_.block, p, count, image_.transposer);
    });
  }

  void end() {}

 private:
  const Geometry& geometry_;
  const Operands<C>& operands_;
  ImageBlock<C, Width> image_;
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
        image_(geometry, operands),
        scatters_(operands.grad_input),
        differentiates_(operands.grad_boxes) {
    if (Twice) change_.emplace(geometry.pooled_h, geometry.pooled_w);
  }

  void begin(const ChannelBlock& block, const PixelWindow& window) {
    image_.load(block, window, differentiates_ || operands_.v_boxes);
  }

  void box(int64_t k, const BoxTaps<C>& taps) {
    CoordinateSums<C, Width> sums;
    Box<C> motion{};
    const View<const C, 2>& v = operands_.v_boxes;
    if (v) motion = {*v.at(k, 1), *v.at(k, 2), *v.at(k, 3), *v.at(k, 4)};
    image_.tile.for_each([&](int64_t p, int64_t count) {
      if (scatters_ || differentiates_) {
        image_.tile.load(operands_.grad_output, k, image_.block, p, count, image_.transposer);
      }
      if constexpr (Twice) change_->fill(initial_value<C>(taps.is_nonfinite));
      for (int64_t y = 0; y < count; ++y) {
        for (int64_t x = 0; x < geometry_.pooled_w; ++x) {
          bin(taps.rows(p + y), taps.columns(x), motion, image_.tile.at(y, x), Twice ? change_->at(y, x) : nullptr,
              sums);
        }
      }
      if (operands_.output) change_->store(operands_.output, k, image_.block, p, count, image_.transposer);
    });
    if (differentiates_) sums.store(box_gradients_.at(image_.block.first / Width, k));
  }

  void end() { image_.store(); }

 private:
  [[gnu::always_inline]] void bin(const Taps<C>& rows, const Taps<C>& columns, const Box<C>& motion, const C* grad,
                                  C* change, CoordinateSums<C, Width>& sums) const {
    if (scatters_) scatter_bin<Width, Twice>(grad, rows, columns, motion, image_.grad_input);
    if constexpr (!Twice) {
      if (differentiates_) differentiate_bin<Width>(image_.input, rows, columns, grad, sums);
    } else if (differentiates_) {
      // Of this the change is a part.
      differentiate_bin_twice<Width>(image_.input, image_.v_input, rows, columns, motion, grad, change, sums);
    } else if (operands_.output) {
      if (operands_.v_boxes) gather_bin<Width, true>(image_.input, rows, columns, motion, change);
      if (operands_.v_input) gather_bin<Width, false>(image_.v_input, rows, columns, motion, change);
    }
  }

  const Geometry& geometry_;
  const Operands<C>& operands_;
  BoxGradients<C, Width>& box_gradients_;
  ImageBlock<C, Width> image_;
  std::optional<BinTile<C, Width>> change_;
  // What is made of the bins: a gradient of the image, one of the boxes.
  const bool scatters_, differentiates_;
};

struct Passes {
  template <class C>
  static void forward(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
    const TapsByImage<C> taps = taps_of<C>(geometry, boxes);
    dispatch_width(geometry.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      for_each_box<Width>(geometry, taps, [&] { return Forward<C, Width>(geometry, operands); });
    });
  }

  template <bool Twice, class C>
  static void differentiate(const Geometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
    const TapsByImage<C> taps = taps_of<C>(geometry, boxes);
    dispatch_width(geometry.channels, [&](auto width) {
      constexpr int64_t Width = width.value;
      BoxGradients<C, Width> box_gradients(geometry, static_cast<bool>(operands.grad_boxes));
      for_each_box<Width>(geometry, taps,
                          [&] { return Differentiation<C, Width, Twice>(geometry, operands, box_gradients); });
      if (operands.grad_boxes) box_gradients.store(operands.grad_boxes);
    });
  }
};

}  // namespace
}  // namespace handgrad::roi_align

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  using namespace handgrad::roi_align;
  handgrad::sampled_roi::implement<RoiAlignOp, handgrad::sampled_roi::OnCpu<Passes>>(library);
}
