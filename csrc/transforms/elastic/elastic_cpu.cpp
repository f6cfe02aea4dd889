// An image read beside its pixels, on the CPU: rows of all outputs are split over threads (cpu/image_reader.h);
// derivatives go through the output pixel by pixel (cpu/image_derivatives.h).
#if defined(__GNUC__) && !defined(__clang__)
// Before everything that is inlined here: GCC 12 heeds the barrier of rounded_product, but no longer where it
// vectorises a loop, and levels would be others then. What is to be fused says so.
#pragma GCC optimize("fp-contract=off")
#endif

#include "elastic_rows.h"

namespace handgrad::elastic {

struct OnCpu {
  template <class T>
  static void output(const ImageFrame& frame, const Places<Compute<T>>& places, const std::vector<double>& fill,
                     const Tensor& image, const Tensor& output) {
    read_images<T>(frame, places, fill, image, output);
  }
  template <class T, class N>
  static void gradients(const ImageFrame& frame, const Places<Plain<N>>& places, const std::vector<double>& fill,
                        const Tensor& image, const std::optional<Tensor>& direction, const Tensor& grad_output,
                        const Results& results) {
    const ImageOperands<T> operands{view<T, 4>(image), view<T, 4>(direction), view<T, 4>(grad_output), fill};
    const ImageDifferentiator<T, N, Places<Plain<N>>> differentiator(frame, places, operands);
    if (results.wants_output) differentiator.along_directions(mutable_view<T, 4>(results.grad_grad_output));
    if (results.wants_image) differentiator.of_image(mutable_view<T, 4>(results.grad_image));
    if (results.wants_where) {
      differentiate_displacement<N>(places, frame, differentiator, mutable_view<Plain<N>, 4>(results.grad_where));
    }
  }
};

}  // namespace handgrad::elastic

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::elastic::implement<handgrad::elastic::OnCpu>(library); }
