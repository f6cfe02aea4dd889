// Clusters of boxes that several models found, the box that each is fused to, and its score.
#pragma once

#include "math/boxes.h"

namespace handgrad::weighted_boxes_fusion {

// Models are bits of a word.
inline constexpr int64_t kMostModels = 64;

enum ConfType : int64_t { kAverage, kMaximum, kBoxAndModelAverage, kAbsentModelAwareAverage, kConfTypes };

// A box with its score times the weight of its model.
template <class C>
struct Detection {
  Box<C> box;
  C score;
  int32_t model;
};

// Sums over the boxes of a cluster, in the order in which they came: each step rounded by itself, the same on all
// devices.
template <class C>
struct Cluster {
  Box<C> sums{};  // of coordinates times scores
  C score = 0, highest = 0, weight = 0;
  C count = 0;  // exact up to 2^24 boxes at the least
  uint64_t models = 0;
  Box<C> fused{};
  C area = 0;

  HANDGRAD_MATH void add(const Detection<C>& detection, C weight_of_model) {
    const Box<C>& box = detection.box;
    const C s = detection.score;
    sums = {sums.x1 + rounded_product(s, box.x1), sums.y1 + rounded_product(s, box.y1),
            sums.x2 + rounded_product(s, box.x2), sums.y2 + rounded_product(s, box.y2)};
    score += s;
    highest = count == 0 ? s : larger(highest, s);
    weight += weight_of_model;
    count += 1;
    models |= uint64_t{1} << detection.model;
    // The first is itself, to the last bit; and so it stays while all scores are 0.
    if (count == 1) fused = box;
    if (count > 1 && score > 0) fused = {sums.x1 / score, sums.y1 / score, sums.x2 / score, sums.y2 / score};
    area = area_of(fused);
  }
};

// How the scores of a cluster become one.
template <class C>
struct Confidence {
  ConfType type;
  bool allows_overflow;
  C models, sum_of_weights, largest_weight;
  C weights[kMostModels];

  HANDGRAD_MATH C weight_of(uint64_t some) const {
    C sum = 0;
    for (int64_t m = 0; m < kMostModels; ++m) sum += some >> m & 1 ? weights[m] : C(0);
    return sum;
  }

  HANDGRAD_MATH C operator()(const Cluster<C>& cluster) const {
    switch (type) {
      case kMaximum: return cluster.highest / largest_weight;
      case kBoxAndModelAverage:
        return rounded_product(cluster.score / cluster.weight, weight_of(cluster.models) / sum_of_weights);
      case kAbsentModelAwareAverage: return cluster.score / (cluster.weight + weight_of(~cluster.models));
      default: {
        const C counted = allows_overflow ? cluster.count : smaller(models, cluster.count);
        return rounded_product(cluster.score / cluster.count, counted / sum_of_weights);
      }
    }
  }
};

}  // namespace handgrad::weighted_boxes_fusion
