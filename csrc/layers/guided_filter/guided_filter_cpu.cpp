// A guided filter on the CPU: a thread for each tile of a pass.
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "guided_filter_host.h"

namespace handgrad::guided_filter {
namespace {

class Thread {
 public:
  template <class Body>
  HANDGRAD_MATH void each(int32_t begin, int32_t end, const Body& body) const {
    HANDGRAD_SIMD
    for (int32_t i = begin; i < end; ++i) body(i);
  }
  template <class Body>
  HANDGRAD_MATH void cells(int32_t rows, int32_t width, const Body& body) const {
    for (int32_t r = 0; r < rows; ++r) {
      HANDGRAD_SIMD
      for (int32_t w = 0; w < width; ++w) body(r, w);
    }
  }
  // Of some planes, the first-level cache holds as much.
  int32_t chunk(int32_t) const { return 1024; }
  void sync() const {}
  bool leads() const { return true; }

  template <class C>
  C pixel(const Stored<const C>& at) const {
    C value;
    load_run(at, 1, 1, &value);
    return value;
  }
  template <class C>
  HANDGRAD_MATH C get(const C* at) const {
    return *at;
  }
  template <class C>
  HANDGRAD_MATH void put(C* at, C value) const {
    *at = value;
  }

  template <class Source, class C>
  [[gnu::noinline]] void load(const Source& source, const Box& box, C* to) {
    const int64_t low = std::clamp<int64_t>(-box.x, 0, box.columns);
    const int64_t high = std::clamp<int64_t>(box.width - box.x, low, box.columns);
    for (int32_t r = 0; r < box.rows; ++r) {
      C* const row = to + int64_t{r} * box.pitch;
      const int64_t y = border_index(box.border, box.y + r, box.height);
      if (y < 0) {
        std::fill_n(row, box.columns, C(0));
        continue;
      }
      if (high > low) source.row(*this, y, box.x + low, high - low, row + low);
      const auto beyond = [&](int64_t w) {
        const int64_t x = border_index(box.border, box.x + w, box.width);
        row[w] = x < 0 ? C(0) : source.at(*this, y, x);
      };
      for (int64_t w = 0; w < low; ++w) beyond(w);
      for (int64_t w = high; w < box.columns; ++w) beyond(w);
    }
  }
  // Pixels of a tile, moved by `shift`, in place.
  template <class C>
  [[gnu::noinline]] void store(C* from, const Box& box, C shift, const StoredView<C, 4>& to, int64_t n,
                               int64_t c) const {
    for (int32_t r = 0; r < box.rows; ++r, from += box.pitch) {
      HANDGRAD_SIMD
      for (int32_t w = 0; w < box.columns; ++w) from[w] += shift;
      store_run(from, box.columns, to.at(n, c, box.y + r, box.x), to.strides[3]);
    }
  }
  template <class Body>
  double sum(int32_t rows, int32_t width, const Body& body) const {
    double total = 0;
    for (int32_t r = 0; r < rows; ++r) {
      for (int32_t w = 0; w < width; ++w) total += body(r, w);
    }
    return total;
  }
};

struct OnCpu {
  // Tiles that the second-level cache holds with all that is made of them, if there are such.
  static constexpr int64_t kMostScratchBytes = 512 << 10;
  static constexpr int32_t kTiles[][2] = {{64, 256}, {32, 256}, {32, 128}, {32, 64}};

  template <class C, class Pass>
  static void cut(Pass& pass, const Tensor&) {
    for (const auto& [height, width] : kTiles) {
      pass.cut(height, width);
      if (pass.scratch() * static_cast<int64_t>(sizeof(C)) <= kMostScratchBytes) return;
    }
  }
  template <class C, class Pass>
  static void run(Pass pass, const Tensor& like) {
    cut<C>(pass, like);
    parallel_for(pass.items(), pass.scratch(), [&](int64_t begin, int64_t end) {
      ScratchVector<C> scratch(static_cast<size_t>(pass.scratch()));
      Thread thread;
      for (int64_t item = begin; item < end; ++item) pass(thread, scratch.data(), item);
    });
  }
  // Every other number, an image after the other.
  static void sum_items(const double* sums, int64_t items, int64_t images, const View<double, 1>& results,
                        const Tensor&) {
    for (int64_t n = 0; n < images; ++n) {
      double total = 0;
      for (int64_t item = n * items; item < (n + 1) * items; ++item) total += sums[2 * item];
      *results.at(n) = total;
    }
  }
};

}  // namespace
}  // namespace handgrad::guided_filter

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::guided_filter::implement<handgrad::guided_filter::OnCpu>(library);
}
