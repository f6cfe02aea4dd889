// Matrix NMS of masks on the CPU: decay of scores (cpu/score_decay.h) by intersections over unions. A mask is packed,
// 64 pixels to a word; what two have in common is the bits of the words that both have something in.
#include <bit>
#include <cstring>

#include "abi/registration.h"
#include "cpu/score_decay.h"
#include "cpu/scratch.h"
#include "mask_matrix_nms_host.h"

namespace handgrad::mask_matrix_nms {
namespace {

using score_decay::kLanes;

constexpr int64_t kBits = 64;

// Up to 64 pixels.
inline uint64_t packed(const uint8_t* pixels, int64_t count) {
  uint64_t word = 0;
  for (int64_t k = 0; k < count; k += 8) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, pixels + k, static_cast<size_t>(std::min<int64_t>(8, count - k)));
    word |= bits_of_bytes(bytes) << k;
  }
  return word;
}

template <class C>
class MaskOverlaps {
 public:
  static constexpr int64_t kRowsInStep = 32;

  MaskOverlaps(const Tensor& masks,                 // [K, H, W], contiguous
               const std::optional<Tensor>& areas,  // [K]
               const std::vector<uint32_t>& rows)
      : pixels_(masks.size(1) * masks.size(2)), words_of_mask_((pixels_ + kBits - 1) / kBits) {
    const uint8_t* const bytes = bytes_of(masks);
    const View<const C, 1> area_of = view<C, 1>(areas);
    words_.resize(rows.size() * static_cast<size_t>(words_of_mask_));
    masks_.resize(rows.size());
    parallel_for(static_cast<int64_t>(rows.size()), pixels_ / 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t mask = rows[static_cast<size_t>(row)];
        pack(bytes + mask * pixels_, row);
        Mask& one = masks_[static_cast<size_t>(row)];
        if (areas) one.area = *area_of.at(mask);
        if (!is_proper(one.area)) one.begin = one.end = 0;
      }
    });
  }

  int64_t pair_cost() const { return std::max<int64_t>(1, words_of_mask_ / 4); }

  bool ious(int64_t row, int64_t first, int64_t end, C (&iou)[kLanes]) const {
    bool any = false;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      iou[lane] = first + lane < end ? of_pair(row, first + lane) : C(0);
      any |= iou[lane] > 0;
    }
    return any;
  }

 private:
  // Words [begin, end) hold all pixels.
  struct Mask {
    int64_t begin = 0, end = 0;
    C area = 0;
  };

  void pack(const uint8_t* pixels, int64_t row) {
    uint64_t* const words = words_.data() + row * words_of_mask_;
    Mask& mask = masks_[static_cast<size_t>(row)];
    int64_t count = 0;
    mask.begin = words_of_mask_;
    for (int64_t w = 0; w < words_of_mask_; ++w) {
      words[w] = packed(pixels + w * kBits, std::min(kBits, pixels_ - w * kBits));
      if (!words[w]) continue;
      count += std::popcount(words[w]);
      mask.begin = std::min(mask.begin, w);
      mask.end = w + 1;
    }
    mask.area = static_cast<C>(count);
  }

  C of_pair(int64_t a, int64_t b) const {
    const Mask &one = masks_[static_cast<size_t>(a)], &other = masks_[static_cast<size_t>(b)];
    const uint64_t *const words = words_.data() + a * words_of_mask_, *const others =
                                                                          words_.data() + b * words_of_mask_;
    const int64_t end = std::min(one.end, other.end);
    int64_t shared = 0;
    for (int64_t w = std::max(one.begin, other.begin); w < end; ++w) shared += std::popcount(words[w] & others[w]);
    return overlap(shared, one.area, other.area);
  }

  int64_t pixels_, words_of_mask_;
  ScratchVector<uint64_t> words_;
  std::vector<Mask> masks_;
};

std::tuple<Tensor, Tensor> mask_matrix_nms_cpu(const Tensor& masks,                 // [K, H, W]
                                               const Tensor& scores,                // [K]
                                               const Tensor& labels,                // [K]
                                               const std::optional<Tensor>& areas,  // [K]
                                               std::optional<double> min_score, std::optional<int64_t> most,
                                               std::optional<int64_t> max_num, double sigma, bool gaussian) {
  check_arguments(masks, scores, labels, areas, most, max_num);
  const Tensor contiguous = contiguous_masks(masks);
  std::tuple<Tensor, Tensor> result{scores, scores};
  score_decay::with_decay(kOp, scores, sigma, gaussian, [&](auto tag, auto decay) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const auto overlaps = [&](const std::vector<uint32_t>& rows) { return MaskOverlaps<C>(contiguous, areas, rows); };
    const score_decay::Limits<C> limits(std::nullopt, min_score);
    const score_decay::Counts counts{most.value_or(masks.size(0)), max_num.value_or(masks.size(0))};
    result = score_decay::decayed_scores<T>(scores, labels, limits, counts, decay, overlaps);
  });
  return result;
}

}  // namespace
}  // namespace handgrad::mask_matrix_nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::mask_matrix_nms::mask_matrix_nms_cpu>(library, "mask_matrix_nms");
}
