// A median filter on the CPU: rows of all planes are split over threads (median_filter_bands.h).
#include "median_filter_bands.h"

namespace handgrad::median_filter {

struct OnCpu {
  template <class C>
  static void run(const Geometry& geometry, Pass pass, const Tensor& input, const Tensor& source,
                  const Tensor& output) {
    const BorderStrips strips(geometry.border, geometry.size[0], geometry.size[1], geometry.radius[1]);
    const int64_t rows = geometry.size[0], items = geometry.batch * geometry.channels * strips.strips;
    parallel_for(items * rows, strips.widest() * geometry.taps(), [&](int64_t begin, int64_t end) {
      Band<C> band(geometry, strips, pass, input, source, output);
      while (begin < end) {
        const int64_t item = begin / rows, first = begin - item * rows, last = std::min(rows, first + end - begin);
        band.run(item, first, last);
        begin += last - first;
      }
    });
  }
};

}  // namespace handgrad::median_filter

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::median_filter::implement<handgrad::median_filter::OnCpu>(library);
}
