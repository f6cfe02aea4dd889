// The signatures of upfirdn2d: zeros inserted, padded or cut, filtered, every so-manieth sample kept. Both derivatives
// with respect to the input and to the filter.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(handgrad, library) {
  // filter: (rows, columns), or (taps), which serve both axes; in the type that input is computed in. up and down: of x
  // and of y; padding: before and after x, before and after y, negative where samples are cut off.
  library.def(
      "upfirdn2d(Tensor input, Tensor filter, int[] up, int[] down, int[] padding, bool flip_filter, float gain) -> "
      "Tensor");
  library.def(
      "_upfirdn2d_backward(Tensor grad_output, Tensor input, Tensor filter, int[] up, int[] down, int[] padding, "
      "bool flip_filter, float gain, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_filter)");
  library.def(
      "_upfirdn2d_double_backward(Tensor? grad_grad_input, Tensor? grad_grad_filter, Tensor grad_output, Tensor input, "
      "Tensor filter, int[] up, int[] down, int[] padding, bool flip_filter, float gain, bool[3] output_mask) -> "
      "(Tensor grad_grad_output, Tensor grad_input, Tensor grad_filter)");
}
