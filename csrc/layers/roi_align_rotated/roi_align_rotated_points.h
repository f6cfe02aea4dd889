// The sampling points of rotated boxes on the CPU.
//
// A point's pixels and weights are the same for all channels of a block. Those of a row of points, through all bins of
// the box beside each other, are made at a time, as vectors; then each is gone to with channels innermost.
//
// In order of appearance: BoxPoint, one of them; PointRow, a row of them.
#pragma once

#include <vector>

#include "cpu/box_taps.h"
#include "roi_align_rotated_host.h"

namespace handgrad::roi_align_rotated {

template <class C>
RotatedBox<C> box_at(const View<const C, 2>& table, int64_t k) {  // [K, 6]
  return {*table.at(k, 1), *table.at(k, 2), *table.at(k, 3), *table.at(k, 4), *table.at(k, 5)};
}

// A sampling point of a box: what is around it, and where it is along the box' axes, in pixels and in parts of the box.
template <class C>
struct BoxPoint {
  Corners<C> corners;
  C v, u, down, right;
};

template <class C>
class PointRow {
 public:
  // What is beside each other in every row of points of a box: those that may be in the image.
  void begin(const TurnedBox<C>& box) {
    box_ = &box;
    starts_.assign(1, 0);
    u_.clear(), right_.clear();
    reached_ = box.of_image();
    for (int32_t q = 0; q < box.columns.pooled_size; ++q) {
      const Range points = box.columns.points(q, reached_.column_low, reached_.column_high);
      for (int32_t j = points.begin; j < points.end; ++j) {
        u_.push_back(box.columns.point(q, j)), right_.push_back(box.columns.along(q, j));
      }
      starts_.push_back(u_.size());
    }
    // Whole vectors.
    const size_t padded = (u_.size() + kPadding - 1) / kPadding * kPadding;
    for (ScratchVector<C>* numbers : {&u_, &down_, &to_right_}) numbers->resize(padded);
    for (ScratchVector<int32_t>* pixels : {&top_, &bottom_, &left_, &right_column_}) pixels->resize(padded);
  }

  // body(q, point) for the points in the image in rows of points through bins (p, q), row after row.
  template <class Body>
  [[gnu::always_inline]] void for_each(int32_t p, const Body& body) {
    const TurnedAxis<C>& rows = box_->rows;
    const Range points = rows.points(p, reached_.row_low, reached_.row_high);
    for (int32_t i = points.begin; i < points.end; ++i) {
      const C v = rows.point(p, i), down = rows.along(p, i);
      load(v);
      for (size_t q = 0; q + 1 < starts_.size(); ++q) {
        for (size_t k = starts_[q]; k < starts_[q + 1]; ++k) {
          if (top_[k] == kOutside) continue;
          BoxPoint<C> point;
          point.corners.y[0] = top_[k], point.corners.y[1] = bottom_[k];
          point.corners.x[0] = left_[k], point.corners.x[1] = right_column_[k];
          point.corners.down = down_[k], point.corners.right = to_right_[k];
          point.v = v, point.u = u_[k], point.down = down, point.right = right_[k];
          body(static_cast<int64_t>(q), point);
        }
      }
    }
  }

 private:
  static constexpr size_t kPadding = 16;
  static constexpr int32_t kOutside = -1;

  const TurnedBox<C>* box_ = nullptr;
  Stretch<C> reached_{};
  // The points of bin q are starts_[q] … starts_[q + 1] - 1.
  std::vector<size_t> starts_;
  ScratchVector<C> u_, right_;
  // Of the row that was loaded: pixels beside each point, and what the second of each axis weighs.
  ScratchVector<int32_t> top_, bottom_, left_, right_column_;
  ScratchVector<C> down_, to_right_;

  // axis_sample, without a branch.
  static void split(C point, int32_t size, int32_t& low, int32_t& high, C& weight) {
    const C positive = point > 0 ? point : C(0), most = static_cast<C>(size);
    const C clamped = positive < most ? positive : most;
    const int32_t whole = static_cast<int32_t>(clamped), last = size - 1;
    const bool at_edge = (point < 0) | (whole >= last);
    low = whole < last ? whole : last;
    high = at_edge ? low : low + 1;
    weight = at_edge ? C(0) : clamped - static_cast<C>(low);
  }

  void load(C v) {
    const TurnedBox<C> box = *box_;
    const C* u = u_.data();
    C *down = down_.data(), *to_right = to_right_.data();
    int32_t *top = top_.data(), *bottom = bottom_.data(), *left = left_.data(), *right_column = right_column_.data();
    const size_t count = u_.size();
    HANDGRAD_SIMD
    for (size_t k = 0; k < count; ++k) {
      const Point<C> at = box.point(v, u[k]);
      split(at.y, box.height, top[k], bottom[k], down[k]);
      split(at.x, box.width, left[k], right_column[k], to_right[k]);
      const bool inside =
          (at.y >= -1) & (at.y <= static_cast<C>(box.height)) & (at.x >= -1) & (at.x <= static_cast<C>(box.width));
      top[k] = inside ? top[k] : kOutside;
    }
  }
};

}  // namespace handgrad::roi_align_rotated
