// Global response normalisation of one channel of a sample, with both derivatives, and its description for
// kinds/spatial_norm.h. Derivation and notation: docs/layers/global_response_norm.md.
//
//   a_c = 1 + w_c G_c / D,   G_c = q_c^(1/2),   D = mean G + eps
#pragma once

#include "math/spatial_norm.h"

namespace handgrad {

class GlobalResponseNorm {
 public:
  // Sums over channels of G, of G along the directions, and of both weighed by the gradient; the last of G weighed by
  // what the directions make of that.
  enum Total { kNorm, kNormMoved, kPull, kPullMoved, kPullAlong, kTotals };

  GlobalResponseNorm(double eps, int64_t group, int64_t)
      : eps_(eps), inverse_count_(1.0 / static_cast<double>(group)) {}

  HANDGRAD_MATH void add(const SpatialState& c, double (&totals)[kTotals]) const {
    const double norm = square_root(c.sums[kSquares]), moved = c.along() * inverse(norm), pull = c.weight * c.slope();
    totals[kNorm] += norm;
    totals[kNormMoved] += moved;
    totals[kPull] += pull * norm;
    totals[kPullMoved] += pull * moved;
    totals[kPullAlong] += pull_along(c) * norm;
  }

  HANDGRAD_MATH SpatialFactors factors(const SpatialState& c, const double (&totals)[kTotals]) const {
    const double norm = square_root(c.sums[kSquares]), inverse_norm = inverse(norm);
    const double divisor = totals[kNorm] * inverse_count_ + eps_, divisor_moved = totals[kNormMoved] * inverse_count_;
    const double response = norm / divisor, norm_moved = c.along() * inverse_norm;
    const double response_moved = (norm_moved - response * divisor_moved) / divisor;
    const double pull = c.weight * c.slope(), mean_pull = totals[kPull] * inverse_count_ / divisor;
    const double grad_norm = (pull - mean_pull) / divisor;
    SpatialFactors made;
    made.scale = 1 + c.weight * response;
    if (!c.second) {
      made.of_input = grad_norm * inverse_norm;
      made.grad_weight = response * c.slope();
      return made;
    }
    const double mean_along = totals[kPullAlong] * inverse_count_ / divisor;
    const double bent = totals[kPullMoved] * inverse_count_ + (pull - 2 * mean_pull) * divisor_moved;
    const double second_norm = (pull_along(c) - mean_along - bent / divisor) / divisor;
    made.moved = c.direction_weight * response + c.weight * response_moved;
    made.of_direction = grad_norm * inverse_norm;
    made.of_input = (second_norm - made.of_direction * norm_moved) * inverse_norm;
    made.grad_weight = response_moved * c.slope() + response * c.turn();
    return made;
  }

 private:
  // The norm of a channel of zeros has no derivative; 0 is the one in the middle.
  HANDGRAD_MATH static double inverse(double norm) { return norm == 0 ? 0 : 1 / norm; }
  HANDGRAD_MATH static double pull_along(const SpatialState& c) {
    return c.direction_weight * c.slope() + c.weight * c.turn();
  }

  double eps_, inverse_count_;
};

struct GlobalResponseNormOp {
  static constexpr const char* name = "global_response_norm";
  using Norm = GlobalResponseNorm;
  // Has tau, and an eps that is learnt.
  static constexpr bool rectifies = false;
};

}  // namespace handgrad
