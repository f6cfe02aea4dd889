// One sample of multi-scale deformable attention: a bilinear one of its level times its attention weight, at a location
// in [0, 1]. Derivation: docs/layers/multi_scale_deformable_attention.md.
#pragma once

#include "math/bilinear.h"

namespace handgrad {

// The feature map of one level, and where it begins among the positions of all levels.
struct Level {
  int32_t height, width;
  int64_t start;
};

// A direction of a sample: of its location and of its weight.
template <class C>
struct AttendedMotion {
  C x, y, weight;
};

template <class C>
struct AttendedSample : BilinearSample<C> {
  using Base = BilinearSample<C>;
  C height, width, attention;

  // Rounded step by step, so that which pixels a location lies between does not depend on the processor.
  HANDGRAD_MATH AttendedSample(const Level& level, C x, C y, C attention)
      : Base(rounded_product(y, static_cast<C>(level.height)) - C(0.5),
             rounded_product(x, static_cast<C>(level.width)) - C(0.5), level.height, level.width),
        height(static_cast<C>(level.height)),
        width(static_cast<C>(level.width)),
        attention(attention) {}

  HANDGRAD_MATH C weight(int q) const { return Base::weight(q, attention); }
  HANDGRAD_MATH C weight_change(int q, const AttendedMotion<C>& v) const {
    return Base::weight_change(q, attention, height * v.y, width * v.x, v.weight);
  }

  // The pixel of corner q in its level, and among all positions.
  HANDGRAD_MATH int64_t position(const Level& level, int q) const {
    return level.start + (this->row + q / 2) * level.width + this->column + q % 2;
  }

  // ---- backward: sums[q] is the sum over the head's channels of grad_output times corner q --------------------------

  HANDGRAD_MATH C grad_location_x(const C (&sums)[4]) const { return width * this->grad_x(attention, sums); }
  HANDGRAD_MATH C grad_location_y(const C (&sums)[4]) const { return height * this->grad_y(attention, sums); }
  HANDGRAD_MATH C grad_attention(const C (&sums)[4]) const { return this->grad_factor(sums); }

  // ---- double backward: of_value as above, of_v with the corners of grad_grad_value ---------------------------------

  HANDGRAD_MATH C second_grad_location_x(const AttendedMotion<C>& v, const C (&of_value)[4], const C (&of_v)[4]) const {
    return width * this->second_grad_x(attention, height * v.y, v.weight, of_value, of_v);
  }
  HANDGRAD_MATH C second_grad_location_y(const AttendedMotion<C>& v, const C (&of_value)[4], const C (&of_v)[4]) const {
    return height * this->second_grad_y(attention, width * v.x, v.weight, of_value, of_v);
  }
  HANDGRAD_MATH C second_grad_attention(const AttendedMotion<C>& v, const C (&of_value)[4], const C (&of_v)[4]) const {
    return this->second_grad_factor(height * v.y, width * v.x, of_value, of_v);
  }
};

}  // namespace handgrad
