// What losses and measures of a pair of boxes are made of, axis by axis: extents, and the distance of the centres. A
// loss is a function of these ten numbers; here is how they depend on the eight coordinates.
//
// All of it is for numbers of any type N: float and double, or dual ones (dual.h). Terms that are quotients are told by
// a type how to divide: see below.
#pragma once

#include <limits>

#include "math/boxes.h"
#include "math/dual.h"

namespace handgrad {

// Two intervals, [first_low, first_high] and [second_low, second_high].
template <class N>
struct AxisPair {
  N first, second;  // extents, negative for a box whose corners are swapped
  N shared;         // the intersection's extent, above 0 where there is one
  N enclosing;      // the extent of the smallest interval around both
  N distance;       // from the first centre to the second
};

// A loss' derivatives with respect to these.
template <class N>
struct AxisSlope {
  N first, second, shared, enclosing, distance;
};

// Along both axes.
template <class N>
struct BoxPairSlope {
  AxisSlope<N> x, y;
};

template <class N>
struct BoxPair {
  Box<N> first, second;

  HANDGRAD_MATH AxisPair<N> x() const { return axis(first.x1, first.x2, second.x1, second.x2); }
  HANDGRAD_MATH AxisPair<N> y() const { return axis(first.y1, first.y2, second.y1, second.y2); }

  // A loss' derivatives with respect to the coordinates, from those with respect to what x() and y() are.
  HANDGRAD_MATH BoxPair gradient(const BoxPairSlope<N>& slope) const {
    BoxPair to;
    pull_back(first.x1, first.x2, second.x1, second.x2, slope.x, to.first.x1, to.first.x2, to.second.x1, to.second.x2);
    pull_back(first.y1, first.y2, second.y1, second.y2, slope.y, to.first.y1, to.first.y2, to.second.y1, to.second.y2);
    return to;
  }

 private:
  // Coordinates are subtracted before anything else is done with them: what is left is small, and exact where they are
  // near each other.
  static HANDGRAD_MATH AxisPair<N> axis(N first_low, N first_high, N second_low, N second_high) {
    return {first_high - first_low, second_high - second_low,
            smaller(first_high, second_high) - larger(first_low, second_low),
            larger(first_high, second_high) - smaller(first_low, second_low),
            ((second_low - first_low) + (second_high - first_high)) * Plain<N>(0.5)};
  }

  static HANDGRAD_MATH void pull_back(N first_low, N first_high, N second_low, N second_high, const AxisSlope<N>& slope,
                                      N& to_first_low, N& to_first_high, N& to_second_low, N& to_second_high) {
    using T = Plain<N>;
    // Whose end it is that the intersection begins with and the enclosing interval ends with; of the other two ends it
    // is the other way round.
    const T low = preference(first_low, second_low), high = preference(first_high, second_high);
    const N half = slope.distance * T(0.5);
    to_first_low = -(low * slope.shared + (1 - low) * slope.enclosing + slope.first + half);
    to_second_low = -((1 - low) * slope.shared + low * slope.enclosing + slope.second - half);
    to_first_high = (1 - high) * slope.shared + high * slope.enclosing + slope.first - half;
    to_second_high = high * slope.shared + (1 - high) * slope.enclosing + slope.second + half;
  }
};

// ---- quotients ------------------------------------------------------------------------------------------------------

// Losses add eps to what they divide by.
template <class T>
struct PlusEps {
  T eps;

  template <class N>
  HANDGRAD_MATH N part(N a, N b) const {
    return a / (b + eps);
  }
  template <class N>
  HANDGRAD_MATH N inverse(N b) const {
    return 1 / (b + eps);
  }
};

// Measures have no eps, or one that may be 0: a part of nothing is 0 then, as a part of infinity is, and so is its
// derivative.
template <class T>
struct NothingOfNothing {
  T eps;

  template <class N>
  HANDGRAD_MATH N part(N a, N b) const {
    return a / whole(b);
  }
  template <class N>
  HANDGRAD_MATH N inverse(N b) const {
    return 1 / whole(b);
  }

 private:
  template <class N>
  HANDGRAD_MATH N whole(N b) const {
    const N sum = b + eps;
    return select(value_of(sum) == 0, N(std::numeric_limits<T>::infinity()), sum);
  }
};

// ---- intersection over union ----------------------------------------------------------------------------------------

template <class N>
struct Overlap {
  bool exists;
  N intersection, united;

  HANDGRAD_MATH Overlap(const AxisPair<N>& x, const AxisPair<N>& y)
      : exists((value_of(x.shared) > 0) & (value_of(y.shared) > 0)),
        intersection(select(exists, x.shared * y.shared, N(0))),
        united(x.first * y.first + x.second * y.second - intersection) {}
};

// A sum of slopes is the slope of a sum.
template <class N>
HANDGRAD_MATH AxisSlope<N> operator+(const AxisSlope<N>& a, const AxisSlope<N>& b) {
  return {a.first + b.first, a.second + b.second, a.shared + b.shared, a.enclosing + b.enclosing,
          a.distance + b.distance};
}
template <class N>
HANDGRAD_MATH BoxPairSlope<N> operator+(const BoxPairSlope<N>& a, const BoxPairSlope<N>& b) {
  return {a.x + b.x, a.y + b.y};
}

// A loss' derivatives with respect to areas: the sum of both boxes', the intersection's, and the enclosing box'.
template <class N>
struct AreaSlope {
  N sum, intersection, enclosing;

  // To those with respect to the extents.
  HANDGRAD_MATH BoxPairSlope<N> along_axes(const AxisPair<N>& x, const AxisPair<N>& y, bool overlaps) const {
    return {along(y, overlaps), along(x, overlaps)};
  }

 private:
  HANDGRAD_MATH AxisSlope<N> along(const AxisPair<N>& other, bool overlaps) const {
    return {sum * other.first, sum * other.second, select(overlaps, intersection * other.shared, N(0)),
            enclosing * other.enclosing, N(0)};
  }
};

// 1 - I / U, which most losses begin with.
template <class T, class Quotient = PlusEps<T>>
struct IoULoss {
  Quotient by;

  // What 1 is less the loss.
  HANDGRAD_MATH T measure(const Overlap<T>& overlap) const { return by.part(overlap.intersection, overlap.united); }
  HANDGRAD_MATH T value(const Overlap<T>& overlap) const { return 1 - measure(overlap); }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y, const Overlap<N>& overlap) const {
    // With the sum S of both areas U = S - I: L_S = I / U^2 and L_I = -1 / U - L_S.
    const N by_union = by.inverse(overlap.united), sum = overlap.intersection * by_union * by_union;
    const AreaSlope<N> areas{sum, -by_union - sum, N(0)};
    return areas.along_axes(x, y, overlap.exists);
  }
};

// The same with (A - U) / A added, which is the part of the enclosing box' area A that neither box covers.
template <class T, class Quotient = PlusEps<T>>
struct EnclosedIoULoss {
  Quotient by;

  HANDGRAD_MATH T measure(const AxisPair<T>& x, const AxisPair<T>& y, const Overlap<T>& overlap) const {
    const T enclosing = x.enclosing * y.enclosing;
    return by.part(overlap.intersection, overlap.united) - by.part(enclosing - overlap.united, enclosing);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y, const Overlap<N>& overlap) const {
    const N by_union = by.inverse(overlap.united), by_enclosing = by.inverse(x.enclosing * y.enclosing);
    const N iou = overlap.intersection * by_union;
    // With eps in all denominators: L_S = I / U^2 - 1 / A, L_I = -1 / U - L_S, L_A = U / A^2
    const N sum = iou * by_union - by_enclosing;
    const AreaSlope<N> areas{sum, -by_union - sum, (overlap.united + by.eps) * by_enclosing * by_enclosing};
    return areas.along_axes(x, y, overlap.exists);
  }
};

// (d_x^2 + d_y^2) / (w^2 + h^2): how far the centres are apart, of the diagonal of the enclosing box, squared.
template <class T, class Quotient = PlusEps<T>>
struct CentreDistance {
  Quotient by;

  HANDGRAD_MATH T value(const AxisPair<T>& x, const AxisPair<T>& y) const {
    return by.part(x.distance * x.distance + y.distance * y.distance,
                   x.enclosing * x.enclosing + y.enclosing * y.enclosing);
  }

  template <class N>
  HANDGRAD_MATH BoxPairSlope<N> slope(const AxisPair<N>& x, const AxisPair<N>& y) const {
    const N by_diagonal = by.inverse(x.enclosing * x.enclosing + y.enclosing * y.enclosing);
    const N by_distance = T(2) * by_diagonal;
    const N by_enclosing = -by_distance * by_diagonal * (x.distance * x.distance + y.distance * y.distance);
    return {{N(0), N(0), N(0), by_enclosing * x.enclosing, by_distance * x.distance},
            {N(0), N(0), N(0), by_enclosing * y.enclosing, by_distance * y.distance}};
  }
};

}  // namespace handgrad
