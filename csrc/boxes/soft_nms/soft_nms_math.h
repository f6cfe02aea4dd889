// How much of its score a box keeps beside one that was chosen before it.
#pragma once

#include "math/boxes.h"

namespace handgrad::soft_nms {

template <class C, bool Gaussian>
struct Decay {
  C iou_threshold, sigma;

  Decay(double iou_threshold, double sigma)
      : iou_threshold(static_cast<C>(iou_threshold)), sigma(static_cast<C>(sigma)) {}

  // `intersection` is above 0; where it is 0, all of the score is kept.
  HANDGRAD_MATH C kept_part(C intersection, C whole) const {
    const C iou = intersection / whole;
    if constexpr (Gaussian) {
      // Scores never rise: devices choose among a few boxes and rely on it, and their exp is an approximation.
      return smaller(C(1), C(exp(-(iou * iou) / sigma)));
    } else {
      return iou >= iou_threshold ? 1 - iou : C(1);
    }
  }
};

}  // namespace handgrad::soft_nms
