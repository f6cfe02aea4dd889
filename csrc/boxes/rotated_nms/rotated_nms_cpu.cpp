// Non-maximum suppression of rotated boxes on the CPU: one box after the other, from the highest score down, is
// compared with those kept so far, and is kept if none of them suppresses it.
//
// Kept boxes stand in groups of 16. A group is looked at if the circle around one of its boxes meets that of the box in
// question; then all 16 are compared, in a loop of vectors. Threads take classes; within a class they take boxes of a
// step, which are compared with all kept before the step at once, and then, in order, with those kept within it.
#include "abi/registration.h"
#include "cpu/parallel.h"
#include "cpu/score_order.h"
#include "rotated_nms_host.h"

namespace handgrad::rotated_nms {
namespace {

constexpr int64_t kLanes = 16, kBoxesInStep = 256;

// A lane that is not filled meets nothing.
struct alignas(64) Group {
  double numbers[Candidate::kNumbers][kLanes] = {};

  Group() { std::fill_n(numbers[5], kLanes, -std::numeric_limits<double>::infinity()); }

  void set(int64_t lane, const Candidate& candidate) {
    write_numbers(candidate.box, &numbers[0][lane], kLanes);
    numbers[5][lane] = candidate.radius;
  }
  bool suppresses(const Suppression& rule, const Candidate& candidate) const {
    int32_t may = 0, does = 0;
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      may |= rule.may(numbers[0][lane], numbers[1][lane], numbers[5][lane], candidate.box.x, candidate.box.y,
                      candidate.radius);
    }
    if (!may) return false;
    double decided[kLanes];
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      RotatedBox<double> box;
      read_numbers(&numbers[0][lane], kLanes, box);
      decided[lane] = rule.decides(box, candidate.box) ? 1 : 0;
    }
    for (const double one : decided) does |= one != 0;
    return does;
  }
};

class KeptBoxes {
 public:
  void add(const Candidate& candidate) {
    if (count_ % kLanes == 0) groups_.emplace_back();
    groups_.back().set(count_++ % kLanes, candidate);
  }
  // Whether one of them suppresses the candidate.
  bool suppress(const Suppression& rule, const Candidate& candidate) const {
    for (const Group& group : groups_) {
      if (group.suppresses(rule, candidate)) return true;
    }
    return false;
  }
  void clear() { groups_.clear(), count_ = 0; }
  int64_t groups() const { return static_cast<int64_t>(groups_.size()); }

 private:
  std::vector<Group> groups_;
  int64_t count_ = 0;
};

// kept[i] = whether the i-th of the candidates, which come by decreasing score, is kept.
std::vector<uint8_t> keep(const std::vector<Candidate>& candidates, const Suppression& rule) {
  const int64_t count = static_cast<int64_t>(candidates.size());
  std::vector<uint8_t> kept(candidates.size());
  KeptBoxes before, within;
  for (int64_t first = 0; first < count; first += kBoxesInStep) {
    const int64_t last = std::min(count, first + kBoxesInStep);
    parallel_for(last - first, kLanes * before.groups(), [&](int64_t begin, int64_t end) {
      for (int64_t i = first + begin; i < first + end; ++i) kept[i] = !before.suppress(rule, candidates[i]);
    });
    within.clear();
    for (int64_t i = first; i < last; ++i) {
      kept[i] = kept[i] && !within.suppress(rule, candidates[i]);
      if (kept[i]) within.add(candidates[i]);
    }
    for (int64_t i = first; i < last; ++i) {
      if (kept[i]) before.add(candidates[i]);
    }
  }
  return kept;
}

// Decides for the boxes of one class, order[begin] … order[end - 1], by decreasing score.
template <class T>
void keep_of_class(const View<const T, 2>& boxes,  // [K, 5]
                   const Suppression& rule, const std::vector<uint32_t>& order, int64_t begin, int64_t end,
                   std::vector<uint8_t>& kept) {
  std::vector<Candidate> candidates;
  std::vector<uint32_t> rows;
  for (int64_t i = begin; i < end; ++i) {
    double given[5];
    for (int c = 0; c < 5; ++c) given[c] = static_cast<double>(widen(*boxes.at(order[i], c)));
    RotatedBox<double> box;
    read_numbers(given, 1, box);
    // A box that is not proper is kept, and suppresses none.
    if (!is_proper(box)) continue;
    candidates.push_back(candidate_of(box));
    rows.push_back(order[i]);
  }
  const std::vector<uint8_t> chosen = keep(candidates, rule);
  for (size_t i = 0; i < rows.size(); ++i) kept[rows[i]] = chosen[i];
}

Tensor rotated_nms_cpu(const Tensor& boxes,                // [K, 5]
                       const Tensor& scores,               // [K]
                       const std::optional<Tensor>& idxs,  // [K]
                       double iou_threshold) {
  check_arguments(boxes, scores, idxs);
  const int64_t count = boxes.size(0);
  std::vector<uint8_t> kept(static_cast<size_t>(count), 1);
  std::vector<uint32_t> order;
  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    order = order_by_score<T>(scores);
    std::vector<int64_t> begins;
    const std::vector<uint32_t> grouped = idxs ? order_by_class(order, *idxs, begins) : std::vector<uint32_t>();
    const std::vector<uint32_t>& ordered = idxs ? grouped : order;
    if (!idxs && count > 0) begins.push_back(0);
    const int64_t classes = static_cast<int64_t>(begins.size());
    begins.push_back(count);
    const View<const T, 2> table = view<T, 2>(boxes);
    parallel_for(classes, kLanes * count / std::max<int64_t>(1, classes), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        keep_of_class(table, Suppression{iou_threshold}, ordered, begins[k], begins[k + 1], kept);
      }
    });
  });
  return kept_in_order(order, kept, boxes);
}

}  // namespace
}  // namespace handgrad::rotated_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::rotated_nms::rotated_nms_cpu>(library, "rotated_nms");
}
