// Matrix NMS of boxes on the CPU: decay of scores (cpu/score_decay.h) by intersections over unions, 16 boxes at a time.
// Most groups of boxes share nothing with a box, and no quotient is taken of them.
#include "abi/registration.h"
#include "cpu/score_decay.h"
#include "matrix_nms_host.h"

namespace handgrad::matrix_nms {
namespace {

using score_decay::kLanes;

template <class C>
class BoxOverlaps {
 public:
  static constexpr int64_t kRowsInStep = 128;

  template <class T>
  BoxOverlaps(const View<const T, 2>& boxes,  // [K, 4]
              const std::vector<uint32_t>& rows) {
    // Lanes beyond the last box are read.
    for (auto* values : {&x1_, &y1_, &x2_, &y2_, &area_}) values->resize(rows.size() + kLanes);
    for (size_t i = 0; i < rows.size(); ++i) {
      const Box<C> box = read_box(boxes, rows[i]);
      const C area = area_of(box);
      // A box that is not proper shares nothing with any, as one of no size.
      if (!is_proper(box, area)) continue;
      x1_[i] = box.x1, y1_[i] = box.y1, x2_[i] = box.x2, y2_[i] = box.y2;
      area_[i] = area;
    }
  }

  int64_t pair_cost() const { return 1; }

  bool ious(int64_t row, int64_t first, int64_t end, C (&iou)[kLanes]) const {
    const Box<C> box{x1_[row], y1_[row], x2_[row], y2_[row]};
    C shared[kLanes];
    int32_t any = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t i = first + lane;
      shared[lane] = intersection_of(box, {x1_[i], y1_[i], x2_[i], y2_[i]});
      any |= shared[lane] > 0;
    }
    if (!any) return false;
    const C area = area_[row];
    HANDGRAD_SIMD
    for (int lane = 0; lane < kLanes; ++lane) {
      const C of_pair = overlap(shared[lane], area, area_[first + lane]);
      iou[lane] = first + lane < end ? of_pair : C(0);
    }
    return true;
  }

 private:
  std::vector<C> x1_, y1_, x2_, y2_, area_;
};

std::tuple<Tensor, Tensor> matrix_nms_cpu(const Tensor& boxes,                // [K, 4]
                                          const Tensor& scores,               // [K]
                                          const std::optional<Tensor>& idxs,  // [K]
                                          std::optional<double> score_threshold, std::optional<double> min_score,
                                          double sigma, bool gaussian) {
  check_arguments(boxes, scores, idxs);
  std::tuple<Tensor, Tensor> result{boxes, scores};
  score_decay::with_decay(kOp, boxes, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto overlaps = [&](const std::vector<uint32_t>& rows) { return BoxOverlaps<C>(view<T, 2>(boxes), rows); };
    const score_decay::Limits<C> limits(score_threshold, min_score);
    result = score_decay::decayed_scores<T>(scores, idxs, limits, {boxes.size(0), boxes.size(0)}, decay, overlaps);
  });
  return result;
}

}  // namespace
}  // namespace handgrad::matrix_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::matrix_nms::matrix_nms_cpu>(library, "matrix_nms");
}
