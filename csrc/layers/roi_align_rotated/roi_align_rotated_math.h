// A rotated box: its sampling points, the pixels beside each, and derivatives with respect to centre, extents and
// angle. Derivation: docs/layers/roi_align_rotated.md.
//
// In order of appearance: Range and whole_between; TurnedAxis, a box along one of its own axes; turn_of_degrees;
// TurnedBox, both axes and where they lie; Corners and PixelHat, a sampling point seen from itself and from a pixel;
// Motion, a direction of the box; PointSums and their way to the five numbers of a box.
//
// Everything is counted in 32 bits: host entries check that it can be.
#pragma once

#include "math/box_axis.h"
#include "math/rotated_boxes.h"

namespace handgrad::roi_align_rotated {

// [begin, end)
struct Range {
  int32_t begin, end;

  HANDGRAD_MATH bool is_empty() const { return begin >= end; }
};

// Those whole numbers of [0, count) that are between two bounds in either order, and the one before these: all, if a
// bound is NaN.
template <class C>
HANDGRAD_MATH Range whole_between(C first, C second, int32_t count) {
  const C low = first < second ? first : second, high = first < second ? second : first;
  const C most = static_cast<C>(count);
  return {low > 0 ? (low < most ? static_cast<int32_t>(low) : count) : 0,
          high < most ? (high >= 0 ? static_cast<int32_t>(high) + 1 : 0) : count};
}

// A box along one of its own axes, in pixels from its middle.
template <class C>
struct TurnedAxis {
  int32_t pooled_size, bin_grid;
  C length, bin_size;
  // The length was made 1, and does not follow the box.
  bool is_clamped;

  HANDGRAD_MATH TurnedAxis(C extent, int32_t sampling_ratio, bool aligned, int32_t pooled_size)
      : pooled_size(pooled_size), length(extent), is_clamped(!aligned && extent < 1) {
    if (is_clamped) length = 1;
    bin_size = length / static_cast<C>(pooled_size);
    bin_grid = sampling_grid(bin_size, sampling_ratio);
  }

  HANDGRAD_MATH C share() const { return C(1) / static_cast<C>(bin_grid); }

  // Sampling point i of bin p, and its derivative with respect to the length: from -1/2 to 1/2.
  HANDGRAD_MATH C point(int32_t p, int32_t i) const {
    return start(p) + (static_cast<C>(i) + C(0.5)) * bin_size / static_cast<C>(bin_grid);
  }
  HANDGRAD_MATH C along(int32_t p, int32_t i) const {
    const C bins = static_cast<C>(p) + (static_cast<C>(i) + C(0.5)) / static_cast<C>(bin_grid);
    return bins / static_cast<C>(pooled_size) - C(0.5);
  }

  // The bins that have points between two bounds, and the points of bin p that are between them; perhaps one more.
  HANDGRAD_MATH Range bins(C low, C high) const {
    return whole_between((low - start(0)) / bin_size, (high - start(0)) / bin_size, pooled_size);
  }
  HANDGRAD_MATH Range points(int32_t p, C low, C high) const {
    const C spacing = bin_size / static_cast<C>(bin_grid), first = start(p);
    return whole_between((low - first) / spacing - C(0.5), (high - first) / spacing - C(0.5), bin_grid);
  }
  // As many bins as a stretch of some length can be in, wherever it is; `most` at most.
  HANDGRAD_MATH int32_t bins_of(C stretch, int32_t most) const {
    const C whole = absolute(stretch / bin_size);
    return whole < static_cast<C>(most - 2) ? static_cast<int32_t>(whole) + 2 : most;
  }

 private:
  HANDGRAD_MATH C start(int32_t p) const { return C(-0.5) * length + static_cast<C>(p) * bin_size; }
};

// The power series of cosine and of sine / x in x^2, for at most a quarter of pi.
template <class C>
struct CosineSeries {
  static constexpr C values[] = {C(1),
                                 C(-1) / 2,
                                 C(1) / 24,
                                 C(-1) / 720,
                                 C(1) / 40320,
                                 C(-1) / 3628800,
                                 C(1) / 479001600,
                                 C(-1) / 87178291200,
                                 C(1) / 20922789888000};
};
template <class C>
struct SineSeries {
  static constexpr C values[] = {C(1),          C(-1) / 6,        C(1) / 120,        C(-1) / 5040,
                                 C(1) / 362880, C(-1) / 39916800, C(1) / 6227020800, C(-1) / 1307674368000};
};

// Cosine and sine, exact for quarter turns.
template <class C>
HANDGRAD_MATH Turn<C> turn_of_degrees(C degrees) {
  const C quarters = floor(degrees / 90 + C(0.5)), rest = degrees - 90 * quarters;
  const int32_t turns = static_cast<int32_t>(quarters - 4 * floor(quarters / 4));
  // An angle so large that its rest is lost must not take the sums beyond their range: it has no meaning.
  const C angle = static_cast<C>(detail::kRadian) * (absolute(rest) < 46 ? rest : C(0)), square = angle * angle;
  const C cosine = detail::polynomial<CosineSeries<C>>(square);
  const C sine = angle * detail::polynomial<SineSeries<C>>(square);
  const bool exchanged = turns % 2 == 1;
  const C x = exchanged ? sine : cosine, y = exchanged ? cosine : sine;
  return {turns == 1 || turns == 2 ? -x : x, turns >= 2 ? -y : y};
}

// A stretch along each axis of a box: [row_low, row_high] and [column_low, column_high].
template <class C>
struct Stretch {
  C row_low, row_high, column_low, column_high;
};

template <class C>
struct Point {
  C y, x;
};

// The box (x, y, width, height, angle) in an image. Its point (v, u), from its middle, is a point (y, x) of the image.
template <class C>
struct TurnedBox {
  TurnedAxis<C> rows, columns;
  C x, y, cosine, sine;
  C spatial_scale;
  // What one degree of the angle turns it by.
  C radian;
  // Pixels by which rounding may move a point, at most.
  C rounding;
  int32_t height, width;
  // NaN, infinite, or infinitely far: every bin is NaN.
  bool is_nonfinite;

  HANDGRAD_MATH TurnedBox(const RotatedBox<C>& box, C spatial_scale, int32_t sampling_ratio, bool aligned,
                          bool clockwise, int32_t pooled_h, int32_t pooled_w, int32_t height, int32_t width)
      : rows(box.height * spatial_scale, sampling_ratio, aligned, pooled_h),
        columns(box.width * spatial_scale, sampling_ratio, aligned, pooled_w),
        spatial_scale(spatial_scale),
        radian(static_cast<C>(clockwise ? -detail::kRadian : detail::kRadian)),
        height(height),
        width(width) {
    const C offset = aligned ? C(0.5) : C(0);
    x = box.x * spatial_scale - offset, y = box.y * spatial_scale - offset;
    const C far = absolute(x) + absolute(y) + absolute(rows.length) + absolute(columns.length);
    // (A product with 0 is NaN of what is not finite.)
    is_nonfinite = !(0 * far + 0 * box.height + 0 * box.width + 0 * box.angle == 0);
    const Turn<C> turn = turn_of_degrees(is_nonfinite ? C(0) : clockwise ? -box.angle : box.angle);
    cosine = turn.cosine, sine = turn.sine;
    constexpr C epsilon = std::numeric_limits<C>::epsilon();
    rounding =
        C(1) / 64 + 16 * epsilon * far + 16 * epsilon * static_cast<C>(height) + 16 * epsilon * static_cast<C>(width);
  }

  HANDGRAD_MATH C share() const { return rows.share() * columns.share(); }
  HANDGRAD_MATH bool has_points() const { return !is_nonfinite && rows.bin_grid > 0 && columns.bin_grid > 0; }

  // Products are rounded by themselves, so that whether a point is in the image is the same wherever it is asked.
  HANDGRAD_MATH Point<C> point(C v, C u) const {
    return {y + (rounded_product(v, cosine) - rounded_product(u, sine)),
            x + (rounded_product(u, cosine) + rounded_product(v, sine))};
  }
  HANDGRAD_MATH bool is_inside(const Point<C>& at) const {
    return at.y >= -1 && at.y <= static_cast<C>(height) && at.x >= -1 && at.x <= static_cast<C>(width);
  }

  // What the box' axes have of a rectangle of the image, from its middle.
  HANDGRAD_MATH Stretch<C> stretch(C middle_y, C middle_x, C half_height, C half_width) const {
    const C dy = middle_y - y, dx = middle_x - x;
    const C v = dx * sine + dy * cosine, u = dx * cosine - dy * sine;
    const C half_v = half_width * absolute(sine) + half_height * absolute(cosine) + rounding;
    const C half_u = half_width * absolute(cosine) + half_height * absolute(sine) + rounding;
    return {v - half_v, v + half_v, u - half_u, u + half_u};
  }
  // Of all that a point may be in; and of what touches a pixel.
  HANDGRAD_MATH Stretch<C> of_image() const {
    return stretch(C(0.5) * static_cast<C>(height - 1), C(0.5) * static_cast<C>(width - 1),
                   C(0.5) * static_cast<C>(height + 1), C(0.5) * static_cast<C>(width + 1));
  }
  HANDGRAD_MATH Stretch<C> of_pixel(int32_t pixel_y, int32_t pixel_x) const {
    return stretch(static_cast<C>(pixel_y), static_cast<C>(pixel_x), C(1), C(1));
  }

  // Half of the rectangle of the image that is around the box.
  HANDGRAD_MATH Point<C> half_extents() const {
    return {C(0.5) * (absolute(columns.length * sine) + absolute(rows.length * cosine)) + rounding,
            C(0.5) * (absolute(columns.length * cosine) + absolute(rows.length * sine)) + rounding};
  }
};

// The four pixels around a sampling point in the image: corner q = 2 a + b is (y[a], x[b]). At the edge of the image
// two of them are one, and nothing follows the point along that axis.
template <class C>
struct Corners {
  int32_t y[2], x[2];
  // What the second row and column weigh; the first have the rest.
  C down, right;

  Corners() = default;
  HANDGRAD_MATH Corners(const Point<C>& at, int32_t height, int32_t width) {
    const AxisSample<C> row = axis_sample(at.y, height), column = axis_sample(at.x, width);
    y[0] = row.low, y[1] = row.high, x[0] = column.low, x[1] = column.high;
    down = row.weight, right = column.weight;
  }

  HANDGRAD_MATH C slope_y() const { return y[1] != y[0] ? C(1) : C(0); }
  HANDGRAD_MATH C slope_x() const { return x[1] != x[0] ? C(1) : C(0); }
  HANDGRAD_MATH C row(int q) const { return q / 2 ? down : 1 - down; }
  HANDGRAD_MATH C column(int q) const { return q % 2 ? right : 1 - right; }

  HANDGRAD_MATH C weight(int q) const { return row(q) * column(q); }
  // How it changes along a motion of the point.
  HANDGRAD_MATH C weight_change(int q, const Point<C>& motion) const {
    const C of_y = motion.y * slope_y() * column(q), of_x = motion.x * slope_x() * row(q);
    return (q / 2 ? of_y : -of_y) + (q % 2 ? of_x : -of_x);
  }

  // Derivatives of a sample with respect to the point, from what each corner is (or from sums of that): the two first,
  // and the mixed one; the other two are 0.
  HANDGRAD_MATH Point<C> slopes(const C (&of)[4]) const {
    return {slope_y() * ((1 - right) * (of[2] - of[0]) + right * (of[3] - of[1])),
            slope_x() * ((1 - down) * (of[1] - of[0]) + down * (of[3] - of[2]))};
  }
  HANDGRAD_MATH C curvature(const C (&of)[4]) const {
    return slope_y() * slope_x() * ((of[0] - of[1]) - (of[2] - of[3]));
  }
};

// A sampling point along one axis as a pixel sees it: what it weighs it by, and the derivative of that.
template <class C>
struct PixelHat {
  C weight, slope;

  HANDGRAD_MATH PixelHat(C point, int32_t pixel, int32_t size) {
    const C last = static_cast<C>(size - 1);
    const C clamped = point < 0 ? C(0) : point > last ? last : point, apart = clamped - static_cast<C>(pixel);
    const bool touches = apart >= -1 && apart < 1, follows = touches && point >= 0 && point < last;
    weight = touches ? 1 - absolute(apart) : C(0);
    slope = follows ? (apart < 0 ? C(1) : C(-1)) : C(0);
  }
};

// A direction of a box, in pixels and radians of the image.
template <class C>
struct Motion {
  C y = 0, x = 0, rows = 0, columns = 0, angle = 0;

  Motion() = default;
  HANDGRAD_MATH Motion(const TurnedBox<C>& box, const RotatedBox<C>& v) {
    const C scale = box.spatial_scale;
    y = scale * v.y, x = scale * v.x, angle = box.radian * v.angle;
    rows = box.rows.is_clamped ? C(0) : scale * v.height;
    columns = box.columns.is_clamped ? C(0) : scale * v.width;
  }

  // Of the point (v, u) of the box, which is `down` and `right` along its axes.
  HANDGRAD_MATH Point<C> of(const TurnedBox<C>& box, C v, C u, C down, C right) const {
    const C dv = down * rows - u * angle, du = right * columns + v * angle;
    return {y + dv * box.cosine - du * box.sine, x + du * box.cosine + dv * box.sine};
  }
};

// Sums over the sampling points of a box: of the derivatives with respect to the point, and of these times where it is
// along the box' rows (down) and columns (right).
template <class N>
struct PointSums {
  N y{}, x{}, down_y{}, down_x{}, right_y{}, right_x{};

  template <class C>
  HANDGRAD_MATH void add(const Point<C>& slopes, C down, C right) {
    y += slopes.y, x += slopes.x;
    down_y += down * slopes.y, down_x += down * slopes.x;
    right_y += right * slopes.y, right_x += right * slopes.x;
  }
};

// The gradient of a box from such sums. Of dual numbers, which have the box' and the sums' changes along a direction as
// their tangents, its tangent is the derivative of the gradient.
template <class N, class C>
HANDGRAD_MATH RotatedBox<N> box_gradient(const TurnedBox<C>& box, N cosine, N sine, N rows, N columns,
                                         const PointSums<N>& sums) {
  using T = Plain<N>;
  const T scale = static_cast<T>(box.spatial_scale), none = T(0);
  const N of_width = cosine * sums.right_x - sine * sums.right_y, of_height = sine * sums.down_x + cosine * sums.down_y;
  const N of_columns = -(sine * sums.right_x) - cosine * sums.right_y;
  const N of_rows = cosine * sums.down_x - sine * sums.down_y;
  return {sums.x * scale, sums.y * scale, of_width * (box.columns.is_clamped ? none : scale),
          of_height * (box.rows.is_clamped ? none : scale),
          (columns * of_columns + rows * of_rows) * static_cast<T>(box.radian)};
}

// The same of plain sums, and for Twice of sums and their change along a motion of the box.
template <class C>
HANDGRAD_MATH RotatedBox<double> box_gradient(const TurnedBox<C>& box, const PointSums<double>& sums) {
  return box_gradient<double>(box, static_cast<double>(box.cosine), static_cast<double>(box.sine),
                              static_cast<double>(box.rows.length), static_cast<double>(box.columns.length), sums);
}
template <class C>
HANDGRAD_MATH RotatedBox<double> box_gradient_change(const TurnedBox<C>& box, const Motion<C>& motion,
                                                     const PointSums<double>& sums, const PointSums<double>& changes) {
  using N = Dual<double>;
  const auto number = [](C value) { return static_cast<double>(value); };
  const double cosine = number(box.cosine), sine = number(box.sine), angle = number(motion.angle);
  PointSums<N> both;
  both.y = {sums.y, changes.y}, both.x = {sums.x, changes.x};
  both.down_y = {sums.down_y, changes.down_y}, both.down_x = {sums.down_x, changes.down_x};
  both.right_y = {sums.right_y, changes.right_y}, both.right_x = {sums.right_x, changes.right_x};
  const RotatedBox<N> gradient = box_gradient<N>(box, N(cosine, -sine * angle), N(sine, cosine * angle),
                                                 N(number(box.rows.length), number(motion.rows)),
                                                 N(number(box.columns.length), number(motion.columns)), both);
  return {gradient.x.tangent, gradient.y.tangent, gradient.width.tangent, gradient.height.tangent,
          gradient.angle.tangent};
}

}  // namespace handgrad::roi_align_rotated
