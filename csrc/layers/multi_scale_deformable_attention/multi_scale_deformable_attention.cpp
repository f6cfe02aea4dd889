// The signatures of multi-scale deformable attention, with both derivatives.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // sampling_locations and attention_weights: in the type that value is computed in. spatial_shapes: height and width
  // of each level, one level after the other; level_start_index: where each begins among the positions of value.
  library.def(
      "multi_scale_deformable_attention(Tensor value, Tensor sampling_locations, Tensor attention_weights, "
      "SymInt[] spatial_shapes, SymInt[] level_start_index) -> Tensor");
  library.def(
      "_multi_scale_deformable_attention_backward(Tensor grad_output, Tensor value, Tensor sampling_locations, "
      "Tensor attention_weights, SymInt[] spatial_shapes, SymInt[] level_start_index, bool[3] output_mask) -> "
      "(Tensor grad_value, Tensor grad_sampling_locations, Tensor grad_attention_weights)");
  library.def(
      "_multi_scale_deformable_attention_double_backward(Tensor? grad_grad_value, Tensor? "
      "grad_grad_sampling_locations, "
      "Tensor? grad_grad_attention_weights, Tensor grad_output, Tensor value, Tensor sampling_locations, "
      "Tensor attention_weights, SymInt[] spatial_shapes, SymInt[] level_start_index, bool[4] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_value, Tensor grad_sampling_locations, Tensor grad_attention_weights)");
}
