// Where a sample of multi-scale deformable attention is: at a location in [0, 1] of its level. Derivation:
// docs/layers/multi_scale_deformable_attention.md.
#pragma once

#include "math/sampled_group.h"

namespace handgrad::multi_scale_deformable_attention {

// The points of a level, the same for all queries.
template <class C>
struct Points {
  Level level;

  // Rounded step by step, so that which pixels a location lies between does not depend on the processor.
  HANDGRAD_MATH GroupSample<C> sample(int64_t, C x, C y, C attention) const {
    const C height = static_cast<C>(level.height), width = static_cast<C>(level.width);
    return GroupSample<C>(level, rounded_product(y, height) - C(0.5), rounded_product(x, width) - C(0.5), attention,
                          height, width);
  }
};

struct Geometry : SampledGeometry<32> {
  using UsualChannels = std::integer_sequence<int64_t, 32>;

  template <class C>
  HANDGRAD_MATH Points<C> points_of(int64_t level, int64_t) const {
    return {levels[level]};
  }
};

}  // namespace handgrad::multi_scale_deformable_attention
