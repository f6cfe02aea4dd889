// Soft non-maximum suppression on the CPU: the box with the highest score is chosen, and lowers the scores of all that
// it overlaps; again and again.
//
// One sweep over the boxes that are left does both: it lowers each score by the box chosen last and finds the highest
// for the next choice, 16 boxes at a time; most groups share nothing with the chosen box and are only compared. Scores
// never rise, so a box below the lowest score wanted is out for good, and those that are left are moved together when
// they have become half of what is swept. A sweep is short and begins where the one before it ended: this is the work
// of one thread.
#include "math/convert.h"
#include "abi/registration.h"
#include "soft_nms_host.h"

namespace handgrad {
namespace {

using namespace soft_nms;

constexpr int64_t kLanes = 16;

// The boxes that may still be chosen, in the order in which they were given.
template <class C>
class Left {
 public:
  explicit Left(int64_t most) {
    for (auto* values : {&x1_, &y1_, &x2_, &y2_, &area_, &score_}) {
      values->resize(static_cast<size_t>((most + kLanes - 1) / kLanes * kLanes));
    }
    place_.resize(x1_.size());
  }

  void add(const Box<C>& box, C score, int64_t place) {
    const C area = area_of(box);
    const bool proper = is_proper(box, area);
    // A box that is not proper shares nothing with any.
    x1_[end_] = proper ? box.x1 : C(0);
    y1_[end_] = proper ? box.y1 : C(0);
    x2_[end_] = proper ? box.x2 : C(0);
    y2_[end_] = proper ? box.y2 : C(0);
    area_[end_] = proper ? area : C(0);
    score_[end_] = score;
    place_[end_++] = place;
  }

  // Lowers the scores by a box, and returns where the highest is now, of equal ones the first; -1 if none is left.
  template <class Decay>
  int64_t sweep(const Decay& decay, const Box<C>& by, C by_area, C min_score) {
    constexpr C out = -std::numeric_limits<C>::infinity();
    C best[kLanes];
    int32_t at[kLanes] = {};
    int32_t left[kLanes] = {};
    std::fill_n(best, kLanes, out);
    std::fill(score_.begin() + end_, score_.begin() + (end_ + kLanes - 1) / kLanes * kLanes, out);
    for (int64_t first = 0; first < end_; first += kLanes) {
      C shared[kLanes];
      int32_t any = 0;
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t i = first + lane;
        shared[lane] = intersection_of(by, {x1_[i], y1_[i], x2_[i], y2_[i]});
        any |= shared[lane] > 0;
      }
      C* scores = score_.data() + first;
      if (any) {
        const C* areas = area_.data() + first;
        HANDGRAD_SIMD
        for (int lane = 0; lane < kLanes; ++lane) {
          const C part = decay.kept_part(shared[lane], union_of(by_area, areas[lane], shared[lane]));
          const C lowered = shared[lane] > 0 ? scores[lane] * part : scores[lane];
          scores[lane] = lowered >= min_score ? lowered : out;
        }
      }
      HANDGRAD_SIMD
      for (int lane = 0; lane < kLanes; ++lane) {
        const bool higher = scores[lane] > best[lane];
        best[lane] = higher ? scores[lane] : best[lane];
        at[lane] = higher ? static_cast<int32_t>(first) + lane : at[lane];
        left[lane] += scores[lane] > out;
      }
    }
    int best_lane = 0, count = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      count += left[lane];
      const bool earlier = best[lane] == best[best_lane] && at[lane] < at[best_lane];
      if (best[lane] > best[best_lane] || earlier) best_lane = lane;
    }
    if (count == 0) return -1;
    int64_t chosen = at[best_lane];
    if (2 * count < end_) chosen = move_together(chosen);
    return chosen;
  }

  Box<C> box(int64_t i) const { return {x1_[i], y1_[i], x2_[i], y2_[i]}; }
  C area(int64_t i) const { return area_[i]; }
  C score(int64_t i) const { return score_[i]; }
  int64_t place(int64_t i) const { return place_[i]; }
  void remove(int64_t i) { score_[i] = -std::numeric_limits<C>::infinity(); }

 private:
  // Closes the gaps; returns where `followed` went.
  int64_t move_together(int64_t followed) {
    int64_t to = 0, moved = 0;
    for (int64_t i = 0; i < end_; ++i) {
      if (!(score_[i] > -std::numeric_limits<C>::infinity())) continue;
      if (i == followed) moved = to;
      for (auto* values : {&x1_, &y1_, &x2_, &y2_, &area_, &score_}) (*values)[to] = (*values)[i];
      place_[to++] = place_[i];
    }
    end_ = to;
    return moved;
  }

  std::vector<C> x1_, y1_, x2_, y2_, area_, score_;
  std::vector<int64_t> place_;
  int64_t end_ = 0;
};

std::tuple<Tensor, Tensor> soft_nms_cpu(const Tensor& boxes, const Tensor& scores, double iou_threshold, double sigma,
                                        double min_score, bool gaussian) {
  check_arguments(boxes, scores);
  const int64_t count = boxes.size(0);
  std::vector<int64_t> places;
  Tensor places_out = boxes, scores_out = boxes;

  with_decay(boxes, iou_threshold, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const T *data = boxes.const_data_ptr<T>(), *score = scores.const_data_ptr<T>();
    const int64_t row = boxes.strides()[0], column = boxes.strides()[1], step = scores.strides()[0];
    const C least = static_cast<C>(min_score);
    Left<C> left(count);
    for (int64_t i = 0; i < count; ++i) {
      const T* corner = data + i * row;
      const C own = widen(score[i * step]);
      // Written so that NaN is out.
      if (!(own >= least)) continue;
      left.add({widen(corner[0]), widen(corner[column]), widen(corner[2 * column]), widen(corner[3 * column])}, own, i);
    }
    std::vector<C> final_scores;
    // A box that shares nothing lowers nothing: for the first choice.
    Box<C> by{};
    C by_area = 0;
    for (int64_t at; (at = left.sweep(decay, by, by_area, least)) >= 0;) {
      places.push_back(left.place(at));
      final_scores.push_back(left.score(at));
      by = left.box(at);
      by_area = left.area(at);
      left.remove(at);
    }
    const int64_t chosen = static_cast<int64_t>(places.size());
    places_out = empty_indices(chosen, boxes);
    scores_out = empty_scores(chosen, boxes);
    std::copy(places.begin(), places.end(), places_out.mutable_data_ptr<int64_t>());
    store_run(final_scores.data(), chosen, scores_out.mutable_data_ptr<T>(), int64_t{1});
  });
  return {places_out, scores_out};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::implement<handgrad::soft_nms_cpu>(library, "soft_nms"); }
