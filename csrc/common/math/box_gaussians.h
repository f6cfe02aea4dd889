// Probabilistic IoU of two rotated boxes, each taken for the normal distribution with its centre, axes and variances: 1
// less the Hellinger distance of both. Derivation: the page of probiou, to which docs/boxes.md leads.
//
//   M = B u^2 + A v^2 + P (s u - c v)^2 + Q (c u + s v)^2
//   D = A B + P Q + A (P s^2 + Q c^2) + B (P c^2 + Q s^2)          W = 4 sqrt(A B P Q)
//   distance = M / (4 (D + eps)) + log(D / (W + eps) + eps) / 2    iou = 1 - sqrt(1 - exp(-distance) + eps)
//
// with the variances P, Q of the first box and A, B of the second, in the second's frame (RotatedFrame). No term is
// negative, so nothing is lost where boxes are thin or alike, as of the determinant of a sum of matrices.
#pragma once

#include "math/rotated_boxes.h"

namespace handgrad {

// A formula for kinds/rotated_box_pair.h.
struct ProbabilisticIoU {
  // Distances are cut to between eps and this one, beyond which there is no derivative.
  static constexpr double kLargest = 100;
  double eps;

  explicit ProbabilisticIoU(double eps) : eps(eps) {}

  HANDGRAD_MATH double value(const RotatedFrame<double>& frame) const {
    return 1 - Parts<double>(frame, eps).hellinger;
  }

  template <class N>
  HANDGRAD_MATH RotatedFrameSlope<N> slope(const RotatedFrame<N>& frame) const {
    const Parts<N> parts(frame, eps);
    const N c2 = frame.cosine * frame.cosine, s2 = frame.sine * frame.sine;
    // With respect to the distance, and by way of it to M, D and W.
    const N by_distance = select(parts.counts, -0.5 * parts.decay / parts.hellinger, N(0));
    const N by_log = 0.5 * by_distance / (parts.ratio + eps);
    const N to_m = 0.25 * by_distance * parts.by_d;
    const N to_d = by_log * parts.by_w - to_m * parts.m * parts.by_d;
    const N to_w = -kWhole * by_log * parts.ratio * parts.by_w;

    const N first = parts.p - parts.q, second = parts.a - parts.b;
    const N to_p = to_m * parts.across * parts.across + to_d * (parts.q + parts.a * s2 + parts.b * c2);
    const N to_q = to_m * parts.along * parts.along + to_d * (parts.p + parts.a * c2 + parts.b * s2);
    const N to_a = to_m * frame.v * frame.v + to_d * (parts.b + parts.p * s2 + parts.q * c2);
    const N to_b = to_m * frame.u * frame.u + to_d * (parts.a + parts.p * c2 + parts.q * s2);
    const N of_across = parts.p * parts.across, of_along = parts.q * parts.along;
    return {2.0 * to_m * (parts.b * frame.u + frame.sine * of_across + frame.cosine * of_along),
            2.0 * to_m * (parts.a * frame.v - frame.cosine * of_across + frame.sine * of_along),
            2.0 * first * (to_m * parts.across * parts.along + to_d * frame.cosine * frame.sine * second),
            kTwoThirds * frame.p * to_p + to_w * frame.q * frame.a * frame.b,
            kTwoThirds * frame.q * to_q + to_w * frame.p * frame.a * frame.b,
            kTwoThirds * frame.a * to_a + to_w * frame.p * frame.q * frame.b,
            kTwoThirds * frame.b * to_b + to_w * frame.p * frame.q * frame.a};
  }

 private:
  static constexpr double kTwoThirds = 2.0 / 3, kWhole = 4.0 / 9;  // the latter: W by half extents

  // Variances of a side of length 2 p are p^2 / 3.
  template <class N>
  static HANDGRAD_MATH N variance(N half) {
    return half * half * (1.0 / 3);
  }

  template <class N>
  struct Parts {
    N p, q, a, b;        // variances
    N across, along, m;  // the way between the centres along the first box' axes; M
    N by_d, by_w;        // 1 / (D + eps), 1 / (W + eps)
    N ratio, decay, hellinger;
    bool counts;  // whether the distance is not cut

    HANDGRAD_MATH Parts(const RotatedFrame<N>& frame, double eps)
        : p(variance(frame.p)), q(variance(frame.q)), a(variance(frame.a)), b(variance(frame.b)) {
      const N c = frame.cosine, s = frame.sine, c2 = c * c, s2 = s * s;
      across = s * frame.u - c * frame.v, along = c * frame.u + s * frame.v;
      m = b * frame.u * frame.u + a * frame.v * frame.v + p * across * across + q * along * along;
      const N d = a * b + p * q + a * (p * s2 + q * c2) + b * (p * c2 + q * s2);
      by_d = 1.0 / (d + eps), by_w = 1.0 / (kWhole * frame.p * frame.q * frame.a * frame.b + eps);
      ratio = d * by_w;
      const N distance = 0.25 * m * by_d + 0.5 * log(ratio + eps);
      counts = (value_of(distance) >= eps) & (value_of(distance) <= kLargest);
      const double cut = smaller(larger(value_of(distance), eps), kLargest);
      decay = exp(-select(counts, distance, N(cut)));
      hellinger = square_root(1.0 - decay + eps);
    }
  };
};

}  // namespace handgrad
