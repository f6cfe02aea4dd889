// A bilateral filter on the CPU: rows of all images are split over threads (joint_bilateral_filter_bands.h), and the
// gradients of sigma are summed row by row.
#include "joint_bilateral_filter_bands.h"

namespace handgrad::joint_bilateral_filter {
namespace {

template <class N>
void add_up(const Geometry& geometry, const SigmaTable& table, const BorderStrips& strips,
            const std::vector<double>& sums, const Tensor& grad_sigma) {
  const View<double, 2> results = mutable_view<double, 2>(grad_sigma);
  const int64_t rows = strips.strips * geometry.size[0];
  for (int64_t n = 0; n < geometry.batch; ++n) {
    for (int k = 0; k < 3; ++k) {
      double total = 0, along = 0;
      for (int64_t row = n * rows; row < (n + 1) * rows; ++row) {
        total += sums[static_cast<size_t>(6 * row + k)], along += sums[static_cast<size_t>(6 * row + 3 + k)];
      }
      const double sigma = table.of(n, k);
      *results.at(n, k) =
          kIsDual<N> ? grad_of_sigma_along(total, along, sigma, table.along(n, k)) : grad_of_sigma(total, sigma);
    }
  }
}

struct OnCpu {
  template <class N>
  static void forward(const Geometry& geometry, const SigmaTable& table, const Operands& operands) {
    const BorderStrips strips(geometry.border, geometry.size[0], geometry.size[1], geometry.radius[1]);
    Operands without = operands;
    without.grad_output = nullptr;
    for_bands<N>(geometry, strips, without, [&](auto& band, int64_t item, int64_t first, int64_t last) {
      band.forward(table, item, first, last);
    });
  }
  template <class N>
  static void backward(const Geometry& geometry, const SigmaTable& table, const Operands& operands) {
    const BorderStrips strips(geometry.border, geometry.size[0], geometry.size[1], geometry.radius[1]);
    std::vector<double> sums(
        static_cast<size_t>(operands.grad_sigma ? 6 * geometry.batch * strips.strips * geometry.size[0] : 0));
    for_bands<N>(geometry, strips, operands, [&](auto& band, int64_t item, int64_t first, int64_t last) {
      double* const of_item = sums.empty() ? nullptr : sums.data() + 6 * item * geometry.size[0];
      band.backward(table, item, first, last, of_item);
    });
    if (operands.grad_sigma) add_up<N>(geometry, table, strips, sums, *operands.grad_sigma);
  }
};

}  // namespace
}  // namespace handgrad::joint_bilateral_filter

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::joint_bilateral_filter::implement<handgrad::joint_bilateral_filter::OnCpu>(library);
}
