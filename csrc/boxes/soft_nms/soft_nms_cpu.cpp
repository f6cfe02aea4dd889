// Soft non-maximum suppression on the CPU: the box with the highest score is chosen, and lowers the scores of all that
// it overlaps; again and again.
//
// One sweep over the boxes that are left does both: it lowers each score by the box chosen last and finds the highest
// for the next choice, 16 boxes at a time; most groups share nothing with the chosen box and are only compared. Scores
// never rise, so a box below the lowest score wanted is out for good, and those that are left are moved together when
// they have become half of what is swept. A sweep is short and begins where the one before it ended: this is the work
// of one thread.
#include "abi/registration.h"
#include "soft_nms_host.h"

namespace handgrad::soft_nms {
namespace {

constexpr int64_t kLanes = 16;

// The boxes that may still be chosen, in their order.
template <class C>
class RemainingBoxes {
 public:
  explicit RemainingBoxes(int64_t most) {
    for (auto* values : {&x1_, &y1_, &x2_, &y2_, &area_, &score_}) {
      values->resize(static_cast<size_t>((most + kLanes - 1) / kLanes * kLanes));
    }
    index_.resize(x1_.size());
  }

  void add(const Box<C>& box, C score, int64_t index) {
    const C area = area_of(box);
    const bool proper = is_proper(box, area);
    // A box that is not proper shares nothing with any.
    x1_[end_] = proper ? box.x1 : C(0);
    y1_[end_] = proper ? box.y1 : C(0);
    x2_[end_] = proper ? box.x2 : C(0);
    y2_[end_] = proper ? box.y2 : C(0);
    area_[end_] = proper ? area : C(0);
    score_[end_] = score;
    index_[end_++] = index;
  }

  // Lowers the scores by a box, and returns where the highest is now, of equal ones the first; -1 if none is left.
  template <class Decay>
  int64_t sweep(const Decay& decay, const Box<C>& chosen_box, C chosen_area, C min_score) {
    Best best;
    std::fill(score_.begin() + end_, score_.begin() + (end_ + kLanes - 1) / kLanes * kLanes, kOut);
    for (int64_t first = 0; first < end_; first += kLanes) {
      C shared[kLanes];
      int32_t any = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t i = first + lane;
        shared[lane] = intersection_of(chosen_box, {x1_[i], y1_[i], x2_[i], y2_[i]});
        any |= shared[lane] > 0;
      }
      C* scores = score_.data() + first;
      if (any) lower(decay, shared, chosen_area, area_.data() + first, min_score, scores);
      best.add(scores, first);
    }
    int64_t count = 0;
    int64_t chosen = best.first_of_highest(count);
    if (count == 0) return -1;
    if (2 * count < end_) chosen = compact(chosen);
    return chosen;
  }

  Box<C> box(int64_t i) const { return {x1_[i], y1_[i], x2_[i], y2_[i]}; }
  C area(int64_t i) const { return area_[i]; }
  C score(int64_t i) const { return score_[i]; }
  int64_t index(int64_t i) const { return index_[i]; }
  void remove(int64_t i) { score_[i] = kOut; }

 private:
  // The score of a box that can be chosen no more.
  static constexpr C kOut = -std::numeric_limits<C>::infinity();

  // The highest scores of a sweep, lane by lane: where they are, and how many boxes remain.
  struct Best {
    C score[kLanes];
    int32_t index[kLanes] = {}, remaining[kLanes] = {};

    Best() { std::fill_n(score, kLanes, kOut); }

    void add(const C* scores, int64_t first) {
      HANDGRAD_SIMD
      for (int lane = 0; lane < kLanes; ++lane) {
        const bool higher = scores[lane] > score[lane];
        score[lane] = higher ? scores[lane] : score[lane];
        index[lane] = higher ? static_cast<int32_t>(first) + lane : index[lane];
        remaining[lane] += scores[lane] > kOut;
      }
    }

    int64_t first_of_highest(int64_t& count) const {
      int best = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        count += remaining[lane];
        const bool earlier = score[lane] == score[best] && index[lane] < index[best];
        if (score[lane] > score[best] || earlier) best = lane;
      }
      return index[best];
    }
  };

  template <class Decay>
  static void lower(const Decay& decay, const C (&shared)[kLanes], C chosen_area, const C* areas, C min_score,
                    C* scores) {
    HANDGRAD_SIMD
    for (int lane = 0; lane < kLanes; ++lane) {
      const C part = decay.kept_part(shared[lane], union_of(chosen_area, areas[lane], shared[lane]));
      const C lowered = shared[lane] > 0 ? scores[lane] * part : scores[lane];
      scores[lane] = lowered >= min_score ? lowered : kOut;
    }
  }

  // Closes the gaps; returns where `followed` went.
  int64_t compact(int64_t followed) {
    int64_t to = 0, moved = 0;
    for (int64_t i = 0; i < end_; ++i) {
      if (!(score_[i] > kOut)) continue;
      if (i == followed) moved = to;
      for (auto* values : {&x1_, &y1_, &x2_, &y2_, &area_, &score_}) (*values)[to] = (*values)[i];
      index_[to++] = index_[i];
    }
    end_ = to;
    return moved;
  }

  std::vector<C> x1_, y1_, x2_, y2_, area_, score_;
  std::vector<int64_t> index_;
  int64_t end_ = 0;
};

std::tuple<Tensor, Tensor> soft_nms_cpu(const Tensor& boxes,   // [K, 4]
                                        const Tensor& scores,  // [K]
                                        double iou_threshold, double sigma, double min_score, bool gaussian) {
  check_arguments(boxes, scores);
  const int64_t count = boxes.size(0);
  std::vector<int64_t> indices;
  Tensor indices_out = boxes, scores_out = boxes;

  with_decay(boxes, iou_threshold, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const View<const T, 2> table = view<T, 2>(boxes);
    const View<const T, 1> score_of = view<T, 1>(scores);
    const C least = static_cast<C>(min_score);
    RemainingBoxes<C> remaining(count);
    for (int64_t i = 0; i < count; ++i) {
      const C own = widen(*score_of.at(i));
      // Written so that NaN is out.
      if (own >= least) remaining.add(read_box(table, i), own, i);
    }
    std::vector<C> final_scores;
    // A box that shares nothing lowers nothing: for the first choice.
    Box<C> chosen_box{};
    C chosen_area = 0;
    for (int64_t best; (best = remaining.sweep(decay, chosen_box, chosen_area, least)) >= 0;) {
      indices.push_back(remaining.index(best));
      final_scores.push_back(remaining.score(best));
      chosen_box = remaining.box(best);
      chosen_area = remaining.area(best);
      remaining.remove(best);
    }
    const int64_t chosen = static_cast<int64_t>(indices.size());
    indices_out = empty_indices(chosen, boxes);
    scores_out = empty_scores(chosen, boxes);
    std::copy(indices.begin(), indices.end(), indices_out.mutable_data_ptr<int64_t>());
    store_run(final_scores.data(), chosen, scores_out.mutable_data_ptr<T>(), int64_t{1});
  });
  return {indices_out, scores_out};
}

}  // namespace
}  // namespace handgrad::soft_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::soft_nms::soft_nms_cpu>(library, "soft_nms");
}
