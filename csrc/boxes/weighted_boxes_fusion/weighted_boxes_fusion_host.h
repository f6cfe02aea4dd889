// What the host entries of all devices need: the checks, and the numbers as kernels see them.
#pragma once

#include <cmath>
#include <vector>

#include "abi/check.h"
#include "abi/dtype.h"
#include "weighted_boxes_fusion_math.h"

namespace handgrad::weighted_boxes_fusion {

inline constexpr const char* kOp = "weighted_boxes_fusion";

inline void check_arguments(const Tensor& boxes,   // [K, 4]
                            const Tensor& scores,  // [K]
                            const Tensor& labels,  // [K]
                            const Tensor& models,  // [K]
                            const std::vector<double>& weights, int64_t conf_type) {
  check_floating(kOp, "boxes", boxes);
  check_floating(kOp, "scores", scores);
  HANDGRAD_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, kOp,
                 ": boxes must have shape (boxes, 4), a row for x1, y1, x2, y2; got ", shape_text(boxes));
  const auto one_for_each = [&](const char* name, const Tensor& tensor) {
    HANDGRAD_CHECK(tensor.dim() == 1 && tensor.size(0) == boxes.size(0), kOp, ": ", name,
                   " must have one number for each of the boxes, shape (", boxes.size(0), ",); got ",
                   shape_text(tensor));
    check_device(kOp, name, tensor, "boxes", boxes);
  };
  one_for_each("scores", scores);
  check_dtype_and_device(kOp, "scores", scores, "boxes", boxes);
  one_for_each("labels", labels);
  one_for_each("models", models);
  for (const auto& [name, tensor] : {std::pair{"labels", &labels}, {"models", &models}}) {
    HANDGRAD_CHECK(tensor->scalar_type() == ScalarType::Long, kOp, ": ", name, " must be int64; got ",
                   dtype_text(tensor->scalar_type()));
  }
  HANDGRAD_CHECK(boxes.size(0) <= INT32_MAX, kOp, ": boxes must be less than 2^31; got ", boxes.size(0));
  const int64_t count = static_cast<int64_t>(weights.size());
  HANDGRAD_CHECK(count >= 1 && count <= kMostModels, kOp, ": weights must be of 1 to ", kMostModels, " models; got ",
                 count);
  HANDGRAD_CHECK(conf_type >= 0 && conf_type < kConfTypes, kOp, ": conf_type must be from 0 to ", kConfTypes - 1,
                 "; got ", conf_type);
}

template <class C>
Confidence<C> confidence_of(const std::vector<double>& weights, int64_t conf_type, bool allows_overflow) {
  Confidence<C> confidence{};
  confidence.type = static_cast<ConfType>(conf_type);
  confidence.allows_overflow = allows_overflow;
  confidence.models = static_cast<C>(weights.size());
  for (size_t m = 0; m < weights.size(); ++m) {
    const C weight = static_cast<C>(weights[m]);
    confidence.weights[m] = weight;
    confidence.sum_of_weights += weight;
    confidence.largest_weight = larger(confidence.largest_weight, weight);
  }
  return confidence;
}

// The largest number of the compute type that is not above the threshold: the same decisions as in double.
template <class C>
C rounded_down(double threshold) {
  const C rounded = static_cast<C>(threshold);
  return static_cast<double>(rounded) > threshold ? std::nextafter(rounded, C(-1)) : rounded;
}

// What is said of a box whose model has no weight.
inline void check_models(bool known, const std::vector<double>& weights) {
  HANDGRAD_CHECK(known, kOp, ": models must be from 0 to ", weights.size() - 1,
                 ", as many as there are weights; got another number");
}

}  // namespace handgrad::weighted_boxes_fusion
