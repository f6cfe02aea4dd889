// The passes of rotated boxes over a block of channels of an image, on the CPU.
//
// In order of appearance: Scratch, a thread's memory; at_corners, the pixels around a point; Forward; BoxSums,
// BoxGradients and Differentiation, for first and second derivatives.
#pragma once

#include "cpu/bilinear.h"
#include "kinds/sampled_roi_cpu.h"
#include "roi_align_rotated_taps.h"

namespace handgrad::roi_align_rotated {

using sampled_roi::initial_value;
using sampled_roi::Operands;

// What a thread has of an image, and of the box that passes.
template <class C, int64_t Width>
struct Scratch : sampled_roi::ImageBlock<C, Width> {
  PointRow<C> points;
  TapBuilder<C> builder;
  BoxTaps<C> taps;

  using sampled_roi::ImageBlock<C, Width>::ImageBlock;

  const BoxTaps<C>& taps_of(const BoxInImage<C>& of_image) {
    if (of_image.taps) return *of_image.taps;
    builder.build(*of_image.box, taps);
    return taps;
  }
};

// Calls body(pixels of `plane`, their weights) for the taps of a bin, up to four at a time.
template <class P, class C, class Body>
[[gnu::always_inline]] inline void for_each_pixel(const BlockPlane<P>& plane, const BoxTaps<C>& taps, int64_t bin,
                                                  const Body& body) {
  const size_t begin = taps.starts[static_cast<size_t>(bin)], end = taps.starts[static_cast<size_t>(bin) + 1];
  by_fours(static_cast<int64_t>(end - begin), [&](auto count, int64_t first) {
    P* pixels[count.value];
    C weights[count.value];
    for (int k = 0; k < count.value; ++k) {
      const PixelTap<C>& tap = taps.taps[begin + static_cast<size_t>(first + k)];
      pixels[k] = plane.at(tap.y, tap.x), weights[k] = tap.weight;
    }
    body(pixels, weights);
  });
}

// Calls body(pixels, weights) for what is around a point: in place of a pixel that is another's, at the edge of the
// image, `spare` memory, so that no pixel is multiplied twice and none is in the way of another's sum.
template <class P, class C, class Weigh, class Body>
[[gnu::always_inline]] inline void at_corners(const BlockPlane<P>& plane, const Corners<C>& corners, P* spare,
                                              const Weigh& weigh, const Body& body) {
  P* pixels[4];
  C weights[4];
  const bool one_row = corners.y[0] == corners.y[1], one_column = corners.x[0] == corners.x[1];
  for (int q = 0; q < 4; ++q) {
    const bool is_other = (q / 2 && one_row) || (q % 2 && one_column);
    pixels[q] = is_other ? spare : plane.at(corners.y[q / 2], corners.x[q % 2]);
    weights[q] = weigh(q);
  }
  body(pixels, weights);
}

template <class C, int64_t Width>
class Forward {
 public:
  Forward(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry), operands_(operands), scratch_(geometry, operands) {}

  void begin(const ChannelBlock& block, const PixelWindow& window) { scratch_.load(block, window, true); }

  void box(int64_t k, const BoxInImage<C>& of_image) {
    const BoxTaps<C>* taps = of_image.window.is_empty() ? nullptr : &scratch_.taps_of(of_image);
    scratch_.tile.for_each([&](int64_t p, int64_t count) {
      scratch_.tile.fill(initial_value<C>(of_image.box->is_nonfinite));
      const int64_t bins = taps ? count * geometry_.pooled_w : 0;
      for (int64_t bin = 0; bin < bins; ++bin) {
        for_each_pixel(
            scratch_.input, *taps, p * geometry_.pooled_w + bin,
            [&](const auto& pixels, const auto& weights) { gather<Width>(pixels, weights, scratch_.tile.at(0, bin)); });
      }
      scratch_.tile.store(operands_.output, k, scratch_.block, p, count, scratch_.transposer);
    });
  }

  void end() {}

 private:
  const Geometry& geometry_;
  const Operands<C>& operands_;
  Scratch<C, Width> scratch_;
};

// The sums that the gradients of boxes are made of, and how they change along a direction; for each block of channels,
// before they are added.
struct BoxSums {
  PointSums<double> sums, changes;
};

inline void add_to(PointSums<double>& to, const PointSums<double>& from) {
  to.y += from.y, to.x += from.x, to.down_y += from.down_y, to.down_x += from.down_x;
  to.right_y += from.right_y, to.right_x += from.right_x;
}

template <class C, int64_t Width>
class BoxGradients {
 public:
  BoxGradients(const Geometry& geometry, bool wanted)
      : geometry_(geometry),
        blocks_(wanted ? (geometry.channels + Width - 1) / Width : 0),
        partial_(static_cast<size_t>(blocks_ * geometry.boxes)) {}

  BoxSums& at(int64_t block, int64_t k) { return partial_[static_cast<size_t>(block * geometry_.boxes + k)]; }

  // Blocks are added in their order. The batch index has no gradient.
  void store(const View<const C, 2>& boxes, const View<const C, 2>& v_boxes, bool twice, const View<C, 2>& grad_boxes) {
    for (int64_t k = 0; k < geometry_.boxes; ++k) {
      const TurnedBox<C> box = geometry_.turned(box_at(boxes, k));
      RotatedBox<double> gradient{};
      if (!box.is_nonfinite) {
        BoxSums total;
        for (int64_t b = 0; b < blocks_; ++b)
          add_to(total.sums, at(b, k).sums), add_to(total.changes, at(b, k).changes);
        const Motion<C> motion = v_boxes ? Motion<C>(box, box_at(v_boxes, k)) : Motion<C>();
        gradient = twice ? box_gradient_change(box, motion, total.sums, total.changes) : box_gradient(box, total.sums);
      }
      const double numbers[6] = {0, gradient.x, gradient.y, gradient.width, gradient.height, gradient.angle};
      for (int64_t d = 0; d < 6; ++d) *grad_boxes.at(k, d) = static_cast<C>(numbers[d]);
    }
  }

 private:
  const Geometry& geometry_;
  int64_t blocks_;
  std::vector<BoxSums> partial_;
};

// The backward, and for Twice the double backward.
template <class C, int64_t Width, bool Twice>
class Differentiation {
 public:
  Differentiation(const Geometry& geometry, const Operands<C>& operands, BoxGradients<C, Width>& box_gradients)
      : geometry_(geometry),
        operands_(operands),
        box_gradients_(box_gradients),
        scratch_(geometry, operands),
        zeros_(Width, C(0)),
        sink_(Width),
        scatters_(operands.grad_input),
        differentiates_(operands.grad_boxes) {
    if (Twice) change_.emplace(geometry.pooled_h, geometry.pooled_w);
  }

  void begin(const ChannelBlock& block, const PixelWindow& window) {
    scratch_.load(block, window, Twice ? static_cast<bool>(operands_.v_boxes) : differentiates_);
  }

  void box(int64_t k, const BoxInImage<C>& of_image) {
    if (!Twice && !differentiates_) return scatter_box(k, of_image);
    const TurnedBox<C>& box = *of_image.box;
    const bool has_points = !of_image.window.is_empty();
    box_ = &box, share_ = has_points ? box.share() : C(0);
    if (operands_.v_boxes) motion_ = Motion<C>(box, box_at(operands_.v_boxes, k));
    if (has_points) scratch_.points.begin(box);
    BoxSums sums;
    scratch_.tile.for_each([&](int64_t p, int64_t count) {
      if (has_points && (scatters_ || differentiates_)) {
        scratch_.tile.load(operands_.grad_output, k, scratch_.block, p, count, scratch_.transposer);
      }
      if constexpr (Twice) change_->fill(initial_value<C>(box.is_nonfinite));
      for (int64_t y = 0; has_points && y < count; ++y) {
        scratch_.points.for_each(static_cast<int32_t>(p + y), [&](int64_t q, const BoxPoint<C>& point) {
          add(point, scratch_.tile.at(y, q), Twice ? change_->at(y, q) : nullptr, sums);
        });
      }
      if (operands_.output) change_->store(operands_.output, k, scratch_.block, p, count, scratch_.transposer);
    });
    if (differentiates_) box_gradients_.at(scratch_.block.first / Width, k) = sums;
  }

  void end() { scratch_.store(); }

 private:
  // The gradient of the image alone.
  void scatter_box(int64_t k, const BoxInImage<C>& of_image) {
    if (of_image.window.is_empty()) return;
    const BoxTaps<C>& taps = scratch_.taps_of(of_image);
    scratch_.tile.for_each([&](int64_t p, int64_t count) {
      scratch_.tile.load(operands_.grad_output, k, scratch_.block, p, count, scratch_.transposer);
      for (int64_t bin = 0; bin < count * geometry_.pooled_w; ++bin) {
        for_each_pixel(scratch_.grad_input, taps, p * geometry_.pooled_w + bin,
                       [&](const auto& pixels, const auto& weights) {
                         scatter<Width>(scratch_.tile.at(0, bin), weights, pixels);
                       });
      }
    });
  }

  // What one sampling point adds to everything that is wanted.
  [[gnu::always_inline]] void add(const BoxPoint<C>& point, const C* grad, C* change, BoxSums& sums) {
    const Corners<C>& corners = point.corners;
    Point<C> motion{};
    if constexpr (Twice) {
      if (operands_.v_boxes) motion = motion_.of(*box_, point.v, point.u, point.down, point.right);
    }
    const auto weight = [&](int q) { return share_ * corners.weight(q); };
    const auto weight_change = [&](int q) { return share_ * corners.weight_change(q, motion); };
    if (scatters_) {
      at_corners(
          scratch_.grad_input, corners, sink_.data(), [&](int q) { return Twice ? weight_change(q) : weight(q); },
          [&](const auto& pixels, const auto& weights) { scatter<Width>(grad, weights, pixels); });
    }
    if constexpr (Twice) {
      if (operands_.output && scratch_.v_input.data) add_sample(scratch_.v_input, corners, weight, change);
      if (operands_.output && scratch_.input.data) add_sample(scratch_.input, corners, weight_change, change);
    }
    if (differentiates_) differentiate(point, motion, grad, sums);
  }

  template <class Weigh>
  [[gnu::always_inline]] void add_sample(const BlockPlane<const C>& plane, const Corners<C>& corners,
                                         const Weigh& weigh, C* to) const {
    at_corners(plane, corners, zeros_.data(), weigh,
               [&](const auto& pixels, const auto& weights) { gather<Width>(pixels, weights, to); });
  }

  [[gnu::always_inline]] void differentiate(const BoxPoint<C>& point, const Point<C>& motion, const C* grad,
                                            BoxSums& sums) const {
    const Corners<C>& corners = point.corners;
    Point<C> changes{};
    if (scratch_.input.data) {
      C of_input[4];
      sum_corners(scratch_.input, corners, grad, of_input);
      const Point<C> slopes = corners.slopes(of_input);
      sums.sums.add(Point<C>{share_ * slopes.y, share_ * slopes.x}, point.down, point.right);
      const C curvature = corners.curvature(of_input);
      changes = {motion.x * curvature, motion.y * curvature};
    }
    if constexpr (Twice) {
      if (scratch_.v_input.data) {
        C of_v[4];
        sum_corners(scratch_.v_input, corners, grad, of_v);
        const Point<C> slopes = corners.slopes(of_v);
        changes.y += slopes.y, changes.x += slopes.x;
      }
      sums.changes.add(Point<C>{share_ * changes.y, share_ * changes.x}, point.down, point.right);
    }
  }

  // sums[q] = the sum over channels of the gradient times corner q
  [[gnu::always_inline]] void sum_corners(const BlockPlane<const C>& plane, const Corners<C>& corners, const C* grad,
                                          C (&sums)[4]) const {
    at_corners(
        plane, corners, zeros_.data(), [](int) { return C(0); },
        [&](const auto& pixels, const auto& weights) {
          C* const none[4] = {};
          if constexpr (Width % 16 == 0) {
            differentiate_channels<Width, false, true>(pixels, weights, grad, none, sums);
          } else {
            differentiate_channels<false, false, true>(Width, pixels, weights, grad, static_cast<C*>(nullptr), none,
                                                       sums);
          }
        });
  }

  const Geometry& geometry_;
  const Operands<C>& operands_;
  BoxGradients<C, Width>& box_gradients_;
  Scratch<C, Width> scratch_;
  std::optional<BinTile<C, Width>> change_;
  const ScratchVector<C> zeros_;
  ScratchVector<C> sink_;
  // What is made of the points: a gradient of the image, one of the boxes.
  const bool scatters_, differentiates_;
  // The box that passes.
  const TurnedBox<C>* box_ = nullptr;
  Motion<C> motion_;
  C share_ = 0;
};

}  // namespace handgrad::roi_align_rotated
