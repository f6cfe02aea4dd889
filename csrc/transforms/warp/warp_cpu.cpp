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
  static void output(const Frame& frame, const MatrixTable& table, const std::vector<double>& fill, const Tensor& image,
                     const Tensor& output) {
    read_images<T>(frame, table, fill, image, output);
  }
  template <class T, class N>
  static void gradients(const Frame& frame, const MatrixTable& table, const std::vector<double>& fill,
                        const Tensor& image, const std::optional<Tensor>& direction, const Tensor& grad_output,
                        const Results& results) {
    const Operands<T> operands{view<T, 4>(image),
                               view<T, 4>(direction),
                               view<T, 4>(grad_output),
                               mutable_view_if<T, 4>(results.wants_output, results.grad_grad_output),
                               mutable_view_if<T, 4>(results.wants_image, results.grad_image),
                               mutable_view_if<double, 3>(results.wants_matrix, results.grad_matrix),
                               fill};
    Differentiator<T, N>(frame, table, operands).run();
  }
};

}  // namespace handgrad::warp

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::warp::implement<handgrad::warp::OnCpu>(library); }
