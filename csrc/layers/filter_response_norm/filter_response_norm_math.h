// Filter response normalisation of one channel of a sample, with both derivatives, and its description for
// kinds/spatial_norm.h. Derivation and notation: docs/layers/filter_response_norm.md.
//
//   a = w r,   r = (q / P + eps + |learned_eps|)^(-1/2)
#pragma once

#include "math/spatial_norm.h"

namespace handgrad {

class FilterResponseNorm {
 public:
  // Nothing is summed over channels.
  enum Total { kTotals = 1 };

  FilterResponseNorm(double eps, int64_t, int64_t positions)
      : eps_(eps), inverse_count_(1.0 / static_cast<double>(positions)) {}

  HANDGRAD_MATH void add(const SpatialState&, double (&)[kTotals]) const {}

  HANDGRAD_MATH SpatialFactors factors(const SpatialState& c, const double (&)[kTotals]) const {
    const double size = c.learned_eps < 0 ? -c.learned_eps : c.learned_eps;
    const double sign = c.learned_eps < 0 ? -1 : c.learned_eps > 0 ? 1 : 0;
    const double inverse = inverse_square_root(c.sums[kSquares] * inverse_count_ + (eps_ + size));
    const double cube = inverse * inverse * inverse, pull = c.weight * c.slope();
    SpatialFactors made;
    made.scale = c.weight * inverse;
    if (!c.second) {
      made.of_input = -inverse_count_ * cube * pull;
      made.grad_weight = inverse * c.slope();
      made.grad_eps = -0.5 * cube * pull * sign;
      return made;
    }
    const double half_moved = inverse_count_ * c.along() + 0.5 * sign * c.direction_eps;
    const double inverse_moved = -cube * half_moved;
    const double pull_along = c.direction_weight * c.slope() + c.weight * c.turn();
    const double second_inverse = pull_along - 3 * pull * (inverse * inverse) * half_moved;
    made.moved = c.direction_weight * inverse + c.weight * inverse_moved;
    made.of_input = -inverse_count_ * cube * second_inverse;
    made.of_direction = -inverse_count_ * cube * pull;
    made.grad_weight = inverse_moved * c.slope() + inverse * c.turn();
    made.grad_eps = -0.5 * cube * second_inverse * sign;
    return made;
  }

 private:
  double eps_, inverse_count_;
};

struct FilterResponseNormOp {
  static constexpr const char* name = "filter_response_norm";
  using Norm = FilterResponseNorm;
  // Has tau, and an eps that is learnt.
  static constexpr bool rectifies = true;
};

}  // namespace handgrad
