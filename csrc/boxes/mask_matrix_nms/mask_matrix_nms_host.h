// What the host entries of all devices need: the checks, and the masks as bytes.
#pragma once

#include "abi/scored_boxes.h"
#include "abi/view.h"
#include "mask_matrix_nms_math.h"

namespace handgrad::mask_matrix_nms {

inline constexpr const char* kOp = "mask_matrix_nms";

inline void check_arguments(const Tensor& masks,                 // [K, H, W]
                            const Tensor& scores,                // [K]
                            const Tensor& labels,                // [K]
                            const std::optional<Tensor>& areas,  // [K]
                            const std::optional<int64_t>& most, const std::optional<int64_t>& max_num) {
  const ScalarType dtype = masks.scalar_type();
  HANDGRAD_CHECK(dtype == ScalarType::Bool || dtype == ScalarType::Byte, kOp, ": masks must be bool or uint8; got ",
                 dtype_text(dtype));
  check_floating(kOp, "scores", scores);
  check_rank(kOp, "masks", masks, 3, "(masks, height, width)");
  check_one_for_each(kOp, "scores", scores, "masks", masks);
  check_classes(kOp, "labels", labels, "masks", masks);
  if (areas) {
    check_one_for_each(kOp, "mask_area", *areas, "masks", masks);
    const ScalarType computed = scores.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    HANDGRAD_CHECK(areas->scalar_type() == computed, kOp, ": mask_area must be ", dtype_text(computed), "; got ",
                   dtype_text(areas->scalar_type()));
  }
  HANDGRAD_CHECK(!most || *most >= 0, kOp, ": nms_pre must be at least 0; got ", most.value_or(0));
  HANDGRAD_CHECK(!max_num || *max_num >= 0, kOp, ": max_num must be at least 0; got ", max_num.value_or(0));
  HANDGRAD_CHECK(masks.size(0) < UINT32_MAX, kOp, ": masks must be less than 2^32; got ", masks.size(0));
  HANDGRAD_CHECK(masks.size(1) == 0 || masks.size(2) <= UINT32_MAX / masks.size(1), kOp,
                 ": masks must have less than 2^32 pixels each; got ", shape_text(masks));
}

// Rows of masks, one behind the other in memory.
inline Tensor contiguous_masks(const Tensor& masks) {
  return masks.is_contiguous() ? masks : torch::stable::contiguous(masks);
}
inline const uint8_t* bytes_of(const Tensor& masks) {
  void* data = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(masks.get(), &data));
  return static_cast<const uint8_t*>(data);
}

}  // namespace handgrad::mask_matrix_nms
