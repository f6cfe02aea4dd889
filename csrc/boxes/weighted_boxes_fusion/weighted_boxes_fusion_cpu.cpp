// Weighted boxes fusion on the CPU: from the highest score down, each box joins the cluster of its label whose fused
// box it overlaps most, if by more than the threshold, or begins one.
//
// Labels have nothing to do with each other: each is the work of one thread. A box is compared with the fused boxes of
// its label, 16 at a time; most share nothing with it, and no quotient is taken.
#include <numeric>

#include "abi/registration.h"
#include "cpu/parallel.h"
#include "cpu/sort.h"
#include "weighted_boxes_fusion_host.h"

namespace handgrad::weighted_boxes_fusion {
namespace {

constexpr int64_t kLanes = 16;

// The clusters of one label, and their fused boxes once more, coordinate by coordinate.
template <class C>
class Clusters {
 public:
  std::vector<Cluster<C>> all;

  // The cluster whose fused box this one overlaps most, of equal ones the first, if by more than the threshold; else
  // -1.
  int64_t best_for(const Box<C>& box, C iou_threshold) const {
    const C area = area_of(box);
    C best_iou = iou_threshold;
    int64_t best = -1;
    for (size_t first = 0; first < all.size(); first += kLanes) {
      C shared[kLanes];
      int32_t any = 0;
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const size_t i = first + lane;
        shared[lane] = intersection_of(box, {x1_[i], y1_[i], x2_[i], y2_[i]});
        any |= shared[lane] > 0;
      }
      if (!any) continue;
      for (size_t lane = 0; lane < kLanes && first + lane < all.size(); ++lane) {
        const C iou = shared[lane] / union_of(area, all[first + lane].area, shared[lane]);
        if (iou > best_iou) best_iou = iou, best = static_cast<int64_t>(first + lane);
      }
    }
    return best;
  }

  void add(int64_t cluster, const Detection<C>& detection, C weight) {
    if (cluster < 0) {
      cluster = static_cast<int64_t>(all.size());
      all.emplace_back();
      // Lanes that no cluster has yet share nothing with any box.
      if (all.size() > x1_.size()) {
        for (auto* values : {&x1_, &y1_, &x2_, &y2_}) values->resize(x1_.size() + kLanes, C(0));
      }
    }
    const size_t i = static_cast<size_t>(cluster);
    all[i].add(detection, weight);
    const Box<C>& fused = all[i].fused;
    x1_[i] = fused.x1, y1_[i] = fused.y1, x2_[i] = fused.x2, y2_[i] = fused.y2;
  }

 private:
  std::vector<C> x1_, y1_, x2_, y2_;
};

template <class C>
struct Fused {
  Box<C> box;
  C score;
  int64_t label;
};

std::tuple<Tensor, Tensor, Tensor> weighted_boxes_fusion_cpu(const Tensor& boxes,   // [K, 4]
                                                             const Tensor& scores,  // [K]
                                                             const Tensor& labels,  // [K]
                                                             const Tensor& models,  // [K]
                                                             const std::vector<double>& weights, double iou_threshold,
                                                             double skip_box_threshold, int64_t conf_type,
                                                             bool allows_overflow) {
  check_arguments(boxes, scores, labels, models, weights, conf_type);
  const int64_t count = boxes.size(0);
  Tensor fused_boxes = boxes, fused_scores = boxes, fused_labels = labels;

  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const View<const T, 2> box_of = view<T, 2>(boxes);
    const View<const T, 1> score_of = view<T, 1>(scores);
    const View<const int64_t, 1> label_of = view<int64_t, 1>(labels), model_at = view<int64_t, 1>(models);
    const auto confidence = confidence_of<C>(weights, conf_type, allows_overflow);
    const C threshold = rounded_down<C>(iou_threshold), least = static_cast<C>(skip_box_threshold);

    std::vector<Detection<C>> detections;
    std::vector<int64_t> label;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t model = *model_at.at(i);
      check_models(model >= 0 && model < static_cast<int64_t>(weights.size()), weights);
      const Box<C> box = read_box(box_of, i);
      const C score = widen(*score_of.at(i));
      // Written so that NaN is out.
      if (!(score >= least) || !is_proper(box, area_of(box))) continue;
      detections.push_back({box, score * confidence.weights[model], static_cast<int32_t>(model)});
      label.push_back(*label_of.at(i));
    }
    std::vector<uint32_t> order(detections.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return label[a] != label[b] ? label[a] < label[b] : detections[a].score > detections[b].score;
    });
    std::vector<size_t> starts;
    for (size_t i = 0; i < order.size(); ++i) {
      if (i == 0 || label[order[i]] != label[order[i - 1]]) starts.push_back(i);
    }
    const int64_t groups = static_cast<int64_t>(starts.size());
    starts.push_back(order.size());

    std::vector<std::vector<Fused<C>>> of_label(static_cast<size_t>(groups));
    const int64_t each = groups > 0 ? static_cast<int64_t>(order.size()) / groups : 0;
    parallel_for(groups, each * each / 4, [&](int64_t begin, int64_t end) {
      for (size_t group = static_cast<size_t>(begin); group < static_cast<size_t>(end); ++group) {
        Clusters<C> clusters;
        for (size_t i = starts[group]; i < starts[group + 1]; ++i) {
          const Detection<C>& detection = detections[order[i]];
          const int64_t best = clusters.best_for(detection.box, threshold);
          clusters.add(best, detection, confidence.weights[detection.model]);
        }
        for (const Cluster<C>& cluster : clusters.all) {
          of_label[group].push_back({cluster.fused, confidence(cluster), label[order[starts[group]]]});
        }
      }
    });
    std::vector<Fused<C>> fused;
    for (const auto& some : of_label) fused.insert(fused.end(), some.begin(), some.end());
    std::stable_sort(fused.begin(), fused.end(), [](const Fused<C>& a, const Fused<C>& b) {
      return descending_key(a.score) < descending_key(b.score);
    });

    const int64_t clusters = static_cast<int64_t>(fused.size());
    const int64_t sizes[] = {clusters, 4};
    fused_boxes = empty_contiguous(sizes, boxes);
    fused_scores = empty_contiguous(Sizes(&clusters, 1), boxes);
    fused_labels = empty_indices(clusters, boxes);
    T* const box_out = fused_boxes.template mutable_data_ptr<T>();
    T* const score_out = fused_scores.template mutable_data_ptr<T>();
    int64_t* const label_out = fused_labels.template mutable_data_ptr<int64_t>();
    for (int64_t i = 0; i < clusters; ++i) {
      const Fused<C>& one = fused[static_cast<size_t>(i)];
      const C corners[] = {one.box.x1, one.box.y1, one.box.x2, one.box.y2};
      for (int k = 0; k < 4; ++k) box_out[4 * i + k] = narrow<T>(corners[k]);
      score_out[i] = narrow<T>(one.score);
      label_out[i] = one.label;
    }
  });
  return {fused_boxes, fused_scores, fused_labels};
}

}  // namespace
}  // namespace handgrad::weighted_boxes_fusion

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::weighted_boxes_fusion::weighted_boxes_fusion_cpu>(library, "weighted_boxes_fusion");
}
