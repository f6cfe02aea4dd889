// One sample of deformable convolution: a bilinear one times the mask, with derivatives that follow the weight of the
// convolution too. Derivation: docs/layers/deform_conv2d.md.
#pragma once

#include "math/bilinear.h"

namespace handgrad {

template <class C>
struct DeformedSample : BilinearSample<C> {
  using Base = BilinearSample<C>;
  using Base::Base;

  // of_h: sums with h, the gradient that grad_grad_weight instead of the weight would give the column.

  HANDGRAD_MATH C second_grad_y(C mask, C vx, C vm, const C (&of_input)[4], const C (&of_v)[4],
                                const C (&of_h)[4]) const {
    return Base::second_grad_y(mask, vx, vm, of_input, of_v) + this->grad_y(mask, of_h);
  }
  HANDGRAD_MATH C second_grad_x(C mask, C vy, C vm, const C (&of_input)[4], const C (&of_v)[4],
                                const C (&of_h)[4]) const {
    return Base::second_grad_x(mask, vy, vm, of_input, of_v) + this->grad_x(mask, of_h);
  }
  HANDGRAD_MATH C second_grad_mask(C vy, C vx, const C (&of_input)[4], const C (&of_v)[4], const C (&of_h)[4]) const {
    return Base::second_grad_factor(vy, vx, of_input, of_v) + this->grad_factor(of_h);
  }
};

}  // namespace handgrad
