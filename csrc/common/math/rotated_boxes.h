// Rotated boxes: two of them as the second sees it; the areas of both, of their intersection and of their convex hull;
// and derivatives. The derivation is on the page to which docs/boxes.md leads.
//
// All of it is without branches, for loops of vectors, and for numbers of any type N, double or dual ones (dual.h).
// Boxes of floats are computed in double: a turned edge of a thousand pixels is off by a ten-thousandth in float, which
// is all there is of a thin box.
#pragma once

#include <cmath>

#include "math/boxes.h"
#include "math/dual.h"

namespace handgrad {

// Centre, extents, and an angle in degrees: positive ones turn counter-clockwise as an image is seen, whose y points
// downwards.
template <class N>
struct RotatedBox {
  static constexpr int kColumns = 5;
  N x, y, width, height, angle;
};

template <class C>
HANDGRAD_MATH void read_numbers(const C* from, int64_t step, RotatedBox<C>& box) {
  box = {from[0], from[step], from[2 * step], from[3 * step], from[4 * step]};
}
template <class C>
HANDGRAD_MATH void write_numbers(const RotatedBox<C>& box, C* to, int64_t step) {
  to[0] = box.x, to[step] = box.y, to[2 * step] = box.width, to[3 * step] = box.height, to[4 * step] = box.angle;
}
template <class C>
HANDGRAD_MATH void add_numbers(const RotatedBox<C>& box, C* to, int64_t step) {
  to[0] += box.x, to[step] += box.y, to[2 * step] += box.width, to[3 * step] += box.height, to[4 * step] += box.angle;
}

// ---- angles ---------------------------------------------------------------------------------------------------------

// An angle in degrees, without whole quarter turns: a rest of at most half a one, which is exact.
template <class N>
struct Rest {
  N degrees;
  // 1 where the number of quarter turns is odd, else 0: a bool beside a number stays in memory, and no loop would be
  // one of vectors.
  Plain<N> odd;
};

// Of such a rest cosine and sine. Of multiples of 90 degrees they are exact.
template <class N>
struct Turn {
  N cosine, sine;
};

namespace detail {

// Nearest whole number, for numbers below 2^51.
HANDGRAD_MATH double nearest(double x) {
  constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
  return (x + magic) - magic;
}

inline constexpr double kRadian = 0.017453292519943295769;

// Sums of the power series of sine and cosine, for at most a quarter of pi: the terms left out are below 2^-53.
struct SineTerms {
  static constexpr double values[] = {1.0,          -1.0 / 6,        1.0 / 120,        -1.0 / 5040,
                                      1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000};
};
struct CosineTerms {
  static constexpr double values[] = {1.0,
                                      -1.0 / 2,
                                      1.0 / 24,
                                      -1.0 / 720,
                                      1.0 / 40320,
                                      -1.0 / 3628800,
                                      1.0 / 479001600,
                                      -1.0 / 87178291200,
                                      1.0 / 20922789888000};
};

HANDGRAD_MATH Rest<double> rest_of(double degrees) {
  const double quarters = nearest(degrees * (1.0 / 90)), half = 0.5 * quarters;
  return {degrees - 90 * quarters, half != nearest(half) ? 1.0 : 0.0};
}
template <class T>
HANDGRAD_MATH Rest<Dual<T>> rest_of(Dual<T> degrees) {
  const Rest<T> rest = rest_of(degrees.value);
  return {{rest.degrees, degrees.tangent}, rest.odd};
}

HANDGRAD_MATH Turn<double> turn_of(double rest) {
  // An angle that is not finite, or so large that its rest is lost, must not take the sums beyond their range: it is
  // told apart elsewhere, or has no meaning.
  const double angle = kRadian * (absolute(rest) < 46 ? rest : 0.0), square = angle * angle;
  return {polynomial<CosineTerms>(square), angle * polynomial<SineTerms>(square)};
}
template <class T>
HANDGRAD_MATH Turn<Dual<T>> turn_of(Dual<T> rest) {
  const Turn<T> turn = turn_of(rest.value);
  const T along = kRadian * rest.tangent;
  return {{turn.cosine, -turn.sine * along}, {turn.sine, turn.cosine * along}};
}

// 0 for a finite number, else NaN.
HANDGRAD_MATH double nothing_of(double x) { return 0 * x; }
template <class T>
HANDGRAD_MATH T nothing_of(Dual<T> x) {
  return 0 * x.value;
}
template <class N>
HANDGRAD_MATH Plain<N> nothing_of(const RotatedBox<N>& box) {
  return nothing_of(box.x) + nothing_of(box.y) + nothing_of(box.width) + nothing_of(box.height) + nothing_of(box.angle);
}

template <class T>
HANDGRAD_MATH T clamped(T x, T limit) {
  return smaller(larger(x, -limit), limit);
}

// The mean of what a straight line from `first` to `last` is when it is clamped to [-limit, limit].
template <class T>
HANDGRAD_MATH T clamped_mean(T first, T last, T limit) {
  const T low = smaller(first, last), high = larger(first, last), length = high - low;
  const T inside_low = clamped(low, limit), inside_high = clamped(high, limit);
  const T below = larger(-limit - low, T(0)) - larger(-limit - high, T(0));
  const T above = larger(high - limit, T(0)) - larger(low - limit, T(0));
  const T half = T(0.5) * (inside_high + inside_low);
  const T sum = (inside_high - inside_low) * half + (above - below) * limit;
  return length > 0 ? sum / (length > 0 ? length : T(1)) : half;
}

// The integral of x, clamped to [-limit_x, limit_x], over y, along an edge, as far as y is in [-limit_y, limit_y]; x
// changes by `slope` times what y does.
template <class T>
HANDGRAD_MATH T edge_integral(T x1, T y1, T x2, T y2, T slope, T limit_x, T limit_y) {
  const T from = clamped(y1, limit_y), to = clamped(y2, limit_y);
  return (to - from) * clamped_mean(x1 + (from - y1) * slope, x2 + (to - y2) * slope, limit_x);
}

// The part of a box' edge that is inside another box: its length, and the integral over it of the way along the edge
// from its middle.
template <class N>
struct InsidePart {
  N length, moment;
};

// What a line along one axis has of a slab |x| <= limit: the interval in which it is inside.
template <class N>
struct Interval {
  N low, high;
  Plain<N> weight;  // 1; of a line that lies in the slab's border half of it, which is the other box' own edge
};

// A number that no extent reaches, in place of infinity.
inline constexpr double kFar = 1e200;
// Below this sine edges are taken for parallel.
inline constexpr double kParallel = 1e-15;

template <class N>
HANDGRAD_MATH Interval<N> inside_slab(N middle, N inverse, bool parallel, N limit) {
  using T = Plain<N>;
  const N centre = -middle * inverse, half = select(value_of(inverse) < 0, -inverse, inverse) * limit;
  // Of a parallel line: 1 within, 1/2 on the border, 0 beyond.
  const T size = absolute(value_of(middle));
  const T within = preference(value_of(limit), size);
  return {select(parallel, N(T(-kFar)), centre - half), select(parallel, N(T(kFar)), centre + half),
          parallel ? within : T(1)};
}

template <class N>
HANDGRAD_MATH InsidePart<N> inside_part(const Interval<N>& x, const Interval<N>& y, N half) {
  const N low = larger(larger(x.low, y.low), -half), high = smaller(smaller(x.high, y.high), half);
  const bool some = value_of(high) > value_of(low);
  const N length = select(some, (high - low) * (x.weight * y.weight), N(0));
  return {length, length * ((low + high) * Plain<N>(0.5))};
}

// The four edges of a box: two that its width lies between, two that its height lies between.
template <class N>
struct InsideEdges {
  InsidePart<N> right, left, top, bottom;
};

// Of a box with centre (u, v), half extents (p, q) and an angle's cosine and sine, inside one around 0 with half
// extents (a, b).
template <class N>
HANDGRAD_MATH InsideEdges<N> inside_edges(N u, N v, N cosine, N sine, N p, N q, N a, N b) {
  using T = Plain<N>;
  const bool parallel = absolute(value_of(sine)) < kParallel;
  const N by_cosine = T(1) / cosine, by_sine = T(1) / select(parallel, N(T(1)), sine);
  const N cp = cosine * p, sp = sine * p, cq = cosine * q, sq = sine * q;
  // Right and left run along (-sine, cosine), top and bottom along (cosine, sine).
  return {inside_part(inside_slab(u + cp, -by_sine, parallel, a), inside_slab(v + sp, by_cosine, false, b), q),
          inside_part(inside_slab(u - cp, -by_sine, parallel, a), inside_slab(v - sp, by_cosine, false, b), q),
          inside_part(inside_slab(u - sq, by_cosine, false, a), inside_slab(v + cq, by_sine, parallel, b), p),
          inside_part(inside_slab(u + sq, by_cosine, false, a), inside_slab(v - cq, by_sine, parallel, b), p)};
}

template <class N>
struct Point {
  N x, y;
};

template <class N>
HANDGRAD_MATH N cross(const Point<N>& a, const Point<N>& b) {
  return a.x * b.y - a.y * b.x;
}
template <class N>
HANDGRAD_MATH Point<N> mixed(Plain<N> part, const Point<N>& a, const Point<N>& b) {
  const Plain<N> rest = 1 - part;
  return {a.x * part + b.x * rest, a.y * part + b.y * rest};
}

// For device code: numbers that are computed before whatever follows, which is not made of what they were made of.
// Otherwise it would be kept in registers, and more than there are.
#if defined(__CUDA_ARCH__)
__device__ __forceinline__ void computed_here(double& x) { asm volatile("" : "+d"(x)); }
template <class T>
__device__ __forceinline__ void computed_here(Dual<T>& x) {
  computed_here(x.value);
  computed_here(x.tangent);
}
template <class... N>
  requires(sizeof...(N) > 1)
__device__ __forceinline__ void computed_here(N&... numbers) {
  (computed_here(numbers), ...);
}
#else
template <class... N>
HANDGRAD_MATH void computed_here(N&...) {}
#endif

// What a number changes by, of a dual one; and a number of type N from both.
HANDGRAD_MATH double tangent_of(double) { return 0; }
template <class T>
HANDGRAD_MATH T tangent_of(Dual<T> x) {
  return x.tangent;
}
template <class N>
HANDGRAD_MATH N with_tangent(Plain<N> value, Plain<N> tangent) {
  if constexpr (std::is_same_v<N, Plain<N>>) {
    return value;
  } else {
    return {value, tangent};
  }
}

}  // namespace detail

// ---- a pair ---------------------------------------------------------------------------------------------------------

// The first box as the second sees it, around whose centre it lies: its own centre (u, v), cosine and sine of the angle
// between both, which is at most an eighth turn, and half the extents of the first and of the second.
template <class N>
struct RotatedFrame {
  N u, v, cosine, sine, p, q, a, b;
};

// Derivatives with respect to these, the angle being in radians.
template <class N>
struct RotatedFrameSlope {
  N u, v, turn, p, q, a, b;
};

// What measures of areas are functions of: those of the intersection, of both boxes together, and of the smallest
// convex shape around both.
template <class N>
struct RotatedAreas {
  N intersection, sum, hull;
  HANDGRAD_MATH N united() const { return sum - intersection; }
};

template <class N>
struct RotatedPairGradient {
  RotatedBox<N> first, second;
};

// The first box is seen from the second, which lies straight there, and less than an eighth turned.
template <class N>
class RotatedPair {
  using T = Plain<N>;

 public:
  HANDGRAD_MATH RotatedPair(const RotatedBox<N>& first, const RotatedBox<N>& second) {
    // Their difference is taken of rests, and so is exact for angles that are near each other, however large.
    const Rest<N> rest1 = detail::rest_of(first.angle), rest2 = detail::rest_of(second.angle);
    const Rest<N> between = detail::rest_of(rest1.degrees - rest2.degrees);
    const Turn<N> frame = detail::turn_of(rest2.degrees), turn = detail::turn_of(between.degrees);
    frame_cosine_ = frame.cosine, frame_sine_ = frame.sine;
    cosine_ = turn.cosine, sine_ = turn.sine;
    swaps_second_ = rest2.odd != 0, swaps_first_ = rest1.odd != between.odd;
    const N x = first.x - second.x, y = second.y - first.y;
    u_ = frame_cosine_ * x + frame_sine_ * y;
    v_ = frame_cosine_ * y - frame_sine_ * x;
    // A negative extent is none.
    has_ = {value_of(first.width) >= 0, value_of(first.height) >= 0, value_of(second.width) >= 0,
            value_of(second.height) >= 0};
    const N width1 = half_of(first.width, has_.width1), height1 = half_of(first.height, has_.height1);
    const N width2 = half_of(second.width, has_.width2), height2 = half_of(second.height, has_.height2);
    p_ = select(swaps_first_, height1, width1), q_ = select(swaps_first_, width1, height1);
    a_ = select(swaps_second_, height2, width2), b_ = select(swaps_second_, width2, height2);
    nothing_ = detail::nothing_of(first) + detail::nothing_of(second);
  }

  HANDGRAD_MATH RotatedFrame<N> frame() const { return {u_, v_, cosine_, sine_, p_, q_, a_, b_}; }

  // 0, or NaN where a number of a box is not finite.
  HANDGRAD_MATH T nothing() const { return nothing_; }

  // The areas; that of the hull only if it is asked for.
  template <bool kHull>
  HANDGRAD_MATH RotatedAreas<N> areas() const {
    const N sum = T(4) * (p_ * q_ + a_ * b_);
    const T shared = intersection() + nothing_;
    RotatedAreas<N> areas{N(shared), sum, N(0)};
    if constexpr (!std::is_same_v<N, T>) {
      const Local to = intersection_slope();
      areas.intersection = detail::with_tangent<N>(
          shared, value_of(to.u) * u_.tangent + value_of(to.v) * v_.tangent + value_of(to.p) * p_.tangent +
                      value_of(to.q) * q_.tangent + value_of(to.a) * a_.tangent + value_of(to.b) * b_.tangent +
                      value_of(to.turn) * turn_tangent());
    }
    if constexpr (kHull) {
      // By its rounding it is not smaller than what it is around.
      detail::computed_here(areas.intersection, areas.sum);
      const N hull = Hull(afresh()).area();
      const T least = value_of(sum) - shared;
      areas.hull = detail::with_tangent<N>(larger(value_of(hull), least), detail::tangent_of(hull));
    }
    return areas;
  }

  // Derivatives with respect to both boxes, from those of a measure with respect to its areas.
  template <bool kHull>
  HANDGRAD_MATH RotatedPairGradient<N> gradient(const RotatedAreas<N>& slope) const {
    if constexpr (!kHull) {
      return gradient(of_areas(slope, Local{}));
    } else {
      // One after the other, and nothing kept of what the areas were made of: a device has no registers for all of it.
      Local hull = Hull(afresh()).slope();
      hull = {hull.u * slope.hull, hull.v * slope.hull, hull.turn * slope.hull, hull.p * slope.hull,
              hull.q * slope.hull, hull.a * slope.hull, hull.b * slope.hull};
      detail::computed_here(hull.u, hull.v, hull.turn, hull.p, hull.q, hull.a, hull.b);
      const RotatedPair again = afresh();
      return again.gradient(again.of_areas(slope, hull));
    }
  }

  // And from those with respect to the frame.
  HANDGRAD_MATH RotatedPairGradient<N> gradient(const RotatedFrameSlope<N>& to) const {
    // Moving or turning both boxes changes nothing.
    const N turn2 = v_ * to.u - u_ * to.v - to.turn;
    const N x = frame_cosine_ * to.u - frame_sine_ * to.v, y = frame_sine_ * to.u + frame_cosine_ * to.v;
    // NaN in one number is NaN in all.
    const T radian = detail::kRadian, none = nothing_;
    return {{x + none, none - y, of_extent(select(swaps_first_, to.q, to.p), has_.width1),
             of_extent(select(swaps_first_, to.p, to.q), has_.height1), to.turn * radian + none},
            {none - x, y + none, of_extent(select(swaps_second_, to.b, to.a), has_.width2),
             of_extent(select(swaps_second_, to.a, to.b), has_.height2), turn2 * radian + none}};
  }

 private:
  using Local = RotatedFrameSlope<N>;

  // With what the areas of the intersection and of both boxes add to `hull`.
  HANDGRAD_MATH Local of_areas(const RotatedAreas<N>& slope, const Local& hull) const {
    const Local shared = intersection_slope();
    const N four = T(4) * slope.sum;
    return {hull.u + shared.u * slope.intersection,
            hull.v + shared.v * slope.intersection,
            hull.turn + shared.turn * slope.intersection,
            hull.p + shared.p * slope.intersection + four * q_,
            hull.q + shared.q * slope.intersection + four * p_,
            hull.a + shared.a * slope.intersection + four * b_,
            hull.b + shared.b * slope.intersection + four * a_};
  }

  static HANDGRAD_MATH N half_of(N extent, bool is_one) { return select(is_one, extent * T(0.5), N(0)); }
  HANDGRAD_MATH N of_extent(N to_half, bool is_one) const { return select(is_one, to_half * T(0.5), N(0)) + nothing_; }

  // Of the angle between both, in radians.
  HANDGRAD_MATH T turn_tangent() const {
    return value_of(cosine_) * detail::tangent_of(sine_) - value_of(sine_) * detail::tangent_of(cosine_);
  }

  // The same, of which a compiler does not know that it is.
  HANDGRAD_MATH RotatedPair afresh() const {
    RotatedPair again = *this;
    detail::computed_here(again.u_, again.v_, again.cosine_, again.sine_, again.p_, again.q_, again.a_, again.b_);
    return again;
  }

  // Whether the boxes share more than their borders: whether their shadows on the axes of each overlap.
  HANDGRAD_MATH bool meets() const {
    const T u = value_of(u_), v = value_of(v_), c = value_of(cosine_), s = value_of(sine_), size = absolute(s);
    const T p = value_of(p_), q = value_of(q_), a = value_of(a_), b = value_of(b_);
    return (absolute(u) < a + (c * p + size * q)) & (absolute(v) < b + (size * p + c * q)) &
           (absolute(c * u + s * v) < p + (c * a + size * b)) & (absolute(c * v - s * u) < q + (size * a + c * b));
  }

  // By Green's theorem: the integral of x over y around the first box, both clamped to the second. Along top and
  // bottom, which are nearly flat, it is turned into one of y over x.
  HANDGRAD_MATH T intersection() const {
    const T u = value_of(u_), v = value_of(v_), c = value_of(cosine_), s = value_of(sine_);
    const T p = value_of(p_), q = value_of(q_), a = value_of(a_), b = value_of(b_);
    const T cp = c * p, sp = s * p, cq = c * q, sq = s * q, slope = s / c;
    // Counter-clockwise: right below, right above, left above, left below.
    const T x0 = u + (cp + sq), x1 = u + (cp - sq), x2 = u - (cp + sq), x3 = u - (cp - sq);
    const T y0 = v + (sp - cq), y1 = v + (sp + cq), y2 = v - (sp - cq), y3 = v - (sp + cq);
    const auto corner = [&](T x, T y) { return detail::clamped(x, a) * detail::clamped(y, b); };
    const T upright =
        detail::edge_integral(x0, y0, x1, y1, -slope, a, b) + detail::edge_integral(x2, y2, x3, y3, -slope, a, b);
    const T flat =
        detail::edge_integral(y1, x1, y2, x2, slope, b, a) + detail::edge_integral(y3, x3, y0, x0, slope, b, a);
    const T corners = (corner(x2, y2) - corner(x1, y1)) + (corner(x0, y0) - corner(x3, y3));
    const T area = upright + (corners - flat);
    const T most = smaller(T(4) * (p * q), T(4) * (a * b));
    return meets() ? smaller(larger(area, T(0)), most) : T(0);
  }

  // By Reynolds' theorem: each edge of one box inside the other moves the area by its length times how fast it moves
  // outwards.
  HANDGRAD_MATH Local intersection_slope() const {
    const N c = cosine_, s = sine_;
    const auto of_first = detail::inside_edges(u_, v_, c, s, p_, q_, a_, b_);
    const auto of_second = detail::inside_edges(-(c * u_ + s * v_), s * u_ - c * v_, c, -s, a_, b_, p_, q_);
    const N along = of_first.right.length - of_first.left.length, across = of_first.top.length - of_first.bottom.length;
    const bool met = meets();
    const auto if_met = [&](N x) { return select(met, x, N(0)); };
    return {if_met(c * along - s * across),
            if_met(s * along + c * across),
            if_met((of_first.left.moment - of_first.right.moment) + (of_first.top.moment - of_first.bottom.moment)),
            if_met(of_first.right.length + of_first.left.length),
            if_met(of_first.top.length + of_first.bottom.length),
            if_met(of_second.right.length + of_second.left.length),
            if_met(of_second.top.length + of_second.bottom.length)};
  }

  // The convex hull of both. The eight edges' normals, in order, are those of both boxes by turns. Between two of them
  // each box has one corner that is farthest out, and so the hull has that of the box which is farther out, or first
  // one and then the other.
  class Hull {
   public:
    explicit HANDGRAD_MATH Hull(const RotatedPair& pair) : pair_(pair) {
      // Reflected, so that the first box is not turned clockwise.
      reflects_ = value_of(pair.sine_) < 0;
      v_ = select(reflects_, -pair.v_, pair.v_), sine_ = select(reflects_, -pair.sine_, pair.sine_);
      const N c = pair.cosine_, s = sine_, u = pair.u_, v = v_, p = pair.p_, q = pair.q_, a = pair.a_, b = pair.b_;
      const N cp = c * p, sp = s * p, cq = c * q, sq = s * q;
      first_[0] = {u + (cp + sq), v + (sp - cq)}, first_[1] = {u + (cp - sq), v + (sp + cq)};
      first_[2] = {u - (cp + sq), v - (sp - cq)}, first_[3] = {u - (cp - sq), v - (sp + cq)};
      second_[0] = {a, b}, second_[1] = {-a, b}, second_[2] = {-a, -b}, second_[3] = {a, -b};
      // How far out each box is along the normals, of the second box and of the first by turns: which of both is it.
      const T cs = value_of(c), sn = value_of(s), wide = value_of(cp) + value_of(sq),
              high = value_of(sp) + value_of(cq);
      const T along = cs * value_of(u) + sn * value_of(v), across = cs * value_of(v) - sn * value_of(u);
      const T wide2 = cs * value_of(a) + sn * value_of(b), high2 = sn * value_of(a) + cs * value_of(b);
      part_[0] = preference(value_of(u) + wide, value_of(a)), part_[1] = preference(along + value_of(p), wide2);
      part_[2] = preference(value_of(v) + high, value_of(b)), part_[3] = preference(across + value_of(q), high2);
      part_[4] = preference(wide - value_of(u), value_of(a)), part_[5] = preference(value_of(p) - along, wide2);
      part_[6] = preference(high - value_of(v), value_of(b)), part_[7] = preference(value_of(q) - across, high2);
    }

    // In an order in which equal terms, as of a box and itself, have an exact sum.
    HANDGRAD_MATH N area() const {
      const N even = (twice<0>() + twice<4>()) + (twice<2>() + twice<6>());
      const N odd = (twice<1>() + twice<5>()) + (twice<3>() + twice<7>());
      return T(0.5) * (even + odd);
    }
    HANDGRAD_MATH Local slope() const {
      Local to{N(0), N(0), N(0), N(0), N(0), N(0), N(0)};
      add_from<0>(to);
      // Of a box and itself, either way of turning is as good.
      const bool same = (value_of(sine_) == 0) & (part_[0] == T(0.5)) & (part_[2] == T(0.5)) & (part_[4] == T(0.5)) &
                        (part_[6] == T(0.5));
      to.v = select(reflects_, -to.v, to.v), to.turn = select(reflects_, -to.turn, to.turn);
      to.turn = select(same, N(0), to.turn);
      return to;
    }

   private:
    using Corner = detail::Point<N>;
    // The corners of the hull behind the k-th normal, which are one unless it goes over to the other box there. The
    // second is the first before the next normal. (Not loops but recursions, as scalar_math.h has it.)
    template <int k>
    HANDGRAD_MATH Corner begin() const {
      return corner<k % 8>(part_[k % 8]);
    }
    template <int k>
    HANDGRAD_MATH Corner end() const {
      return corner<k % 8>(part_[(k + 1) % 8]);
    }
    template <int k>
    HANDGRAD_MATH Corner corner(T part) const {
      return detail::mixed<N>(part, first_[(k + 1) / 2 % 4], second_[k / 2]);
    }

    template <int k>
    HANDGRAD_MATH N twice() const {
      return detail::cross(begin<k>(), end<k>()) + detail::cross(end<k>(), begin<k + 1>());
    }

    // A corner of the hull moves its area by half of the way between the corners beside it.
    template <int k>
    HANDGRAD_MATH void add_from(Local& to) const {
      add<k>(part_[k], beside(end<k + 7>(), end<k>()), to);
      add<k>(part_[(k + 1) % 8], beside(begin<k>(), begin<k + 1>()), to);
      if constexpr (k < 7) add_from<k + 1>(to);
    }
    static HANDGRAD_MATH Corner beside(const Corner& before, const Corner& after) {
      return {T(0.5) * (after.y - before.y), T(0.5) * (before.x - after.x)};
    }
    // The gradient of a corner to what it is made of; `part` of it is the first box'.
    template <int k>
    HANDGRAD_MATH void add(T part, const Corner& gradient, Local& to) const {
      // Which corner it is: (p, -q), (p, q), (-p, q), (-p, -q) of the first box, (a, b), (-a, b), (-a, -b), (a, -b) of
      // the second.
      constexpr int one = (k + 1) / 2 % 4, other = k / 2;
      constexpr T right = one < 2 ? 1 : -1, above = one == 1 || one == 2 ? 1 : -1;
      constexpr T right2 = other == 0 || other == 3 ? 1 : -1, above2 = other < 2 ? 1 : -1;
      const N gx = gradient.x * part, gy = gradient.y * part;
      const N x = pair_.cosine_ * gx + sine_ * gy, y = pair_.cosine_ * gy - sine_ * gx;
      to.u = to.u + gx, to.v = to.v + gy;
      to.p = to.p + right * x, to.q = to.q + above * y;
      to.turn = to.turn + (right * pair_.p_ * y - above * pair_.q_ * x);
      to.a = to.a + right2 * (gradient.x - gx), to.b = to.b + above2 * (gradient.y - gy);
    }

    const RotatedPair& pair_;
    bool reflects_;
    N v_, sine_;
    Corner first_[4], second_[4];
    T part_[8];
  };

  N frame_cosine_, frame_sine_;  // of the second box' angle
  N cosine_, sine_;              // of the angle from the second box to the first
  N u_, v_;                      // the first box' centre
  N p_, q_, a_, b_;              // half extents of the first box and of the second
  struct {
    bool width1, height1, width2, height2;
  } has_;
  bool swaps_first_, swaps_second_;
  T nothing_;
};

// ---- what an op says of itself --------------------------------------------------------------------------------------

// Of an op on rotated boxes, to its kind: kinds/rotated_box_pair.h.
struct RotatedBoxes;

// I / U, 0 of nothing.
struct RotatedIoU {
  static constexpr bool kHull = false;

  HANDGRAD_MATH double value(const RotatedAreas<double>& areas) const {
    return areas.intersection / whole(areas.united());
  }
  template <class N>
  HANDGRAD_MATH RotatedAreas<N> slope(const RotatedAreas<N>& areas) const {
    const N by_union = 1.0 / whole(areas.united()), sum = areas.intersection * by_union * by_union;
    return {by_union + sum, -sum, N(0)};
  }

 private:
  template <class N>
  static HANDGRAD_MATH N whole(N area) {
    return select(value_of(area) == 0, N(std::numeric_limits<double>::infinity()), area);
  }
};

}  // namespace handgrad
