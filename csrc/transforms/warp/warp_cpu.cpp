// An image read at the positions that a matrix makes of the output's, on the CPU: rows of all outputs are split over
// threads (warp_rows.h); derivatives go through the output pixel by pixel (warp_derivatives.h).
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 heeds the barrier of rounded_product, but no longer where it
// vectorises a loop, and levels would be others then. What is to be fused says so.
#pragma GCC optimize("fp-contract=off")
#endif

#include "warp_derivatives.h"
#include "warp_rows.h"

namespace handgrad::warp {

struct OnCpu {
  template <class T>
  static void output(const Places& places, const std::vector<double>& fill, const Tensor& image, const Tensor& output) {
    read_images<T>(places.frame, places, fill, image, output);
  }
  template <class T, class N>
  static void gradients(const Places& places, const std::vector<double>& fill, const Tensor& image,
                        const std::optional<Tensor>& direction, const Tensor& grad_output, const Results& results) {
    const ImageOperands<T> operands{view<T, 4>(image), view<T, 4>(direction), view<T, 4>(grad_output), fill};
    const ImageDifferentiator<T, N, Places> differentiator(places.frame, places, operands);
    if (results.wants_output) differentiator.along_directions(mutable_view<T, 4>(results.grad_grad_output));
    if (results.wants_image) differentiator.of_image(mutable_view<T, 4>(results.grad_image));
    if (results.wants_where) {
      differentiate_matrices<N>(places, differentiator, mutable_view<double, 3>(results.grad_where));
    }
  }
};

}  // namespace handgrad::warp

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::warp::implement<handgrad::warp::OnCpu>(library); }
