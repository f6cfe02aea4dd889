// Derivatives on the CPU. A stretch of an output is a sum of its rectangles with one coefficient each, so that all of
// its pixels share what is differentiated: the gradient of a source is a coefficient times grad_output, and that of an
// opacity comes of one product of grad_output with each rectangle.
//
// In order of appearance: coefficients; the gradient of a source; of the opacities; what is differentiated along a
// direction.
#pragma once

#include <array>

#include "paste_bands.h"

namespace handgrad::paste {

// ---- coefficients ---------------------------------------------------------------------------------------------------

// What each rectangle of a stretch has in the output. N is double, or a dual number whose tangent is along a direction
// of the opacities.
template <class N>
struct Coefficients {
  N fill;
  std::array<N, kMostRectangles> layers;

  Coefficients(const Frame& frame, const Tables& tables, int64_t n, uint32_t shows) : fill(1), layers{} {
    N rest(1);
    for (int layer = frame.rectangles; layer-- > 0;) {
      if (!(shows >> layer & 1)) continue;
      if (layer < frame.opaque()) {
        layers[static_cast<size_t>(layer)] = rest, rest = N(0);
      } else {
        const Opacity<N> by = tables.opacities.template opacity<N>(n, layer - frame.opaque());
        layers[static_cast<size_t>(layer)] = rest * by.own;
        rest = rest * by.rest;
      }
    }
    fill = rest;
  }
};

// Numbers of memory: where they lie, if they are neighbours there and of the type that is computed in.
template <class C>
const C* run_of(const Stored<const C>& from, int64_t stride, int64_t count, C* scratch) {
  if (stride == 1 && from.is_computed_in()) return from.in_place();
  load_run(from, stride, count, scratch);
  return scratch;
}

// ---- the gradient of a source ---------------------------------------------------------------------------------------

// A rectangle that a source's image is seen through.
struct Use {
  int64_t n;
  int layer;
};

template <class C, class N>
class SourceGradient {
 public:
  SourceGradient(const Frame& frame, const Tables& tables, const Derivative& call, int source)
      : frame_(frame),
        tables_(tables),
        source_(source),
        grad_output_(stored_view<C, 4>(call.grad_output)),
        grad_(mutable_stored_view<C, 4>(call.grad(source))),
        uses_(static_cast<size_t>(frame.batch)) {
    for (int64_t n = 0; n < frame.batch; ++n) {
      bands_.emplace_back(frame, tables, n);
      const std::vector<Rectangle>& rectangles = bands_.back().rectangles;
      for (size_t layer = 0; layer < rectangles.size(); ++layer) {
        if (rectangles[layer].source == source)
          uses_[static_cast<size_t>(rectangles[layer].image)].push_back({n, static_cast<int>(layer)});
      }
    }
  }

  // Each row of the source by itself, from all that shows it, in one order.
  void run() const {
    const int64_t rows = frame_.heights[source_], columns = frame_.widths[source_];
    parallel_for(frame_.batch * rows, frame_.channels * columns, [&](int64_t begin, int64_t end) {
      std::vector<C> sums(static_cast<size_t>(frame_.channels * columns)),
          values(static_cast<size_t>(frame_.out_width));
      for (int64_t index = begin; index < end; ++index) {
        const int64_t m = index / rows, y = index - m * rows;
        std::fill(sums.begin(), sums.end(), C(0));
        for (const Use& use : uses_[static_cast<size_t>(m)]) add(use, y, sums.data(), values.data());
        for (int64_t c = 0; c < frame_.channels; ++c)
          store_run(sums.data() + c * columns, columns, grad_.at(m, c, y, 0), grad_.strides[3]);
      }
    });
  }

 private:
  Frame frame_;
  const Tables& tables_;
  int source_;
  StoredView<const C, 4> grad_output_;
  StoredView<C, 4> grad_;
  std::vector<Bands> bands_;
  std::vector<std::vector<Use>> uses_;

  void add(const Use& use, int64_t source_row, C* sums, C* values) const {
    const Bands& bands = bands_[static_cast<size_t>(use.n)];
    const Rectangle& rectangle = bands.rectangles[static_cast<size_t>(use.layer)];
    const int64_t y = source_row - rectangle.down;
    if (y < rectangle.top || y >= rectangle.bottom) return;
    for (const Stretch& stretch : bands.of_row(y).stretches) {
      if (!(stretch.layers >> use.layer & 1)) continue;
      const Coefficients<Widened> all(frame_, tables_, use.n, stretch.layers);
      const C coefficient = static_cast<C>(wanted_of(all.layers[static_cast<size_t>(use.layer)]));
      const int64_t count = stretch.end - stretch.begin;
      for (int64_t c = 0; c < frame_.channels; ++c) {
        const C* from = run_of(grad_output_.at(use.n, c, y, stretch.begin), grad_output_.strides[3], count, values);
        C* to = sums + c * frame_.widths[source_] + stretch.begin + rectangle.across;
        HANDGRAD_SIMD
        for (int64_t x = 0; x < count; ++x) to[x] += coefficient * from[x];
      }
    }
  }

  using Widened = std::conditional_t<std::is_same_v<N, C>, double, Dual<double>>;
};

// ---- the gradient of the opacities ----------------------------------------------------------------------------------

template <class C, class N>
class OpacityGradient {
  static constexpr bool kSecond = !std::is_same_v<N, C>;
  using W = std::conditional_t<kSecond, Dual<double>, double>;

 public:
  OpacityGradient(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Derivative& call)
      : frame_(frame), tables_(tables), fills_(fills), grad_output_(stored_view<C, 4>(call.grad_output)) {
    for (int k = 0; k < kSources; ++k) {
      if (call.sources[k]) sources_[k] = stored_view<C, 4>(*call.sources[k]);
      if (call.directions[k]) directions_[k] = stored_view<C, 4>(*call.directions[k]);
    }
  }

  // Rows are summed by themselves, and then in their order.
  void run(const Tensor& grad_opacity) const {
    const int64_t rows = frame_.out_height, blended = frame_.blended;
    std::vector<double> partial(static_cast<size_t>(frame_.batch * rows * blended));
    for_bands(frame_, tables_, [&](int64_t n, const Bands& bands, const Band& band, int64_t top, int64_t bottom) {
      for (int64_t y = top; y < bottom; ++y) {
        double* sums = partial.data() + (n * rows + y) * blended;
        for (const Stretch& stretch : band.stretches) {
          if (stretch.layers >> frame_.opaque()) add(n, bands, stretch, y, sums);
        }
      }
    });
    double* to = grad_opacity.mutable_data_ptr<double>();
    for (int64_t n = 0; n < frame_.batch; ++n) {
      for (int64_t k = 0; k < blended; ++k) {
        double total = 0;
        for (int64_t y = 0; y < rows; ++y) total += partial[static_cast<size_t>((n * rows + y) * blended + k)];
        to[n * blended + k] = total;
      }
    }
  }

 private:
  Frame frame_;
  const Tables& tables_;
  const std::vector<double>& fills_;
  StoredView<const C, 4> grad_output_, sources_[kSources], directions_[kSources];

  // The chain of a stretch, with products with grad_output in place of pixels; and back through it.
  void add(int64_t n, const Bands& bands, const Stretch& stretch, int64_t y, double* sums) const {
    std::array<W, kMostRectangles> products{}, below{};
    W value(of_fill(n, stretch, y));
    for (uint32_t layers = stretch.layers; layers; layers = without_lowest(layers)) {
      const int layer = lowest(layers);
      const size_t index = static_cast<size_t>(layer);
      products[index] = of_rectangle(n, bands.rectangles[index], stretch, y);
      below[index] = value;
      if (layer < frame_.opaque()) {
        value = products[index];
      } else {
        const Opacity<W> by = tables_.opacities.template opacity<W>(n, layer - frame_.opaque());
        value = value * by.rest + products[index] * by.own;
      }
    }
    W rest(1);
    for (int layer = frame_.rectangles; layer-- > frame_.opaque();) {
      if (!(stretch.layers >> layer & 1)) continue;
      const size_t index = static_cast<size_t>(layer);
      sums[layer - frame_.opaque()] += wanted_of(rest * (products[index] - below[index]));
      rest = rest * tables_.opacities.template opacity<W>(n, layer - frame_.opaque()).rest;
    }
  }

  double of_fill(int64_t n, const Stretch& stretch, int64_t y) const {
    double total = 0;
    for (int64_t c = 0; c < frame_.channels; ++c) {
      const double fill = fills_[static_cast<size_t>(c)];
      if (fill != 0) total += fill * dot(n, c, y, stretch, {}, 0);
    }
    return total;
  }
  W of_rectangle(int64_t n, const Rectangle& rectangle, const Stretch& stretch, int64_t y) const {
    if (rectangle.source == kSources) return W(of_fill(n, stretch, y));
    const double value = sum(sources_[rectangle.source], n, rectangle, stretch, y);
    if constexpr (kSecond) {
      const StoredView<const C, 4>& direction = directions_[rectangle.source];
      return {value, direction ? sum(direction, n, rectangle, stretch, y) : 0.0};
    } else {
      return value;
    }
  }
  double sum(const StoredView<const C, 4>& of, int64_t n, const Rectangle& rectangle, const Stretch& stretch,
             int64_t y) const {
    double total = 0;
    for (int64_t c = 0; c < frame_.channels; ++c) {
      const Stored<const C> from = of.at(rectangle.image, c, y + rectangle.down, stretch.begin + rectangle.across);
      total += dot(n, c, y, stretch, from, of.strides[3]);
    }
    return total;
  }
  // grad_output times what is at `from`, or 1, in lanes of one order.
  double dot(int64_t n, int64_t c, int64_t y, const Stretch& stretch, const Stored<const C>& from, int64_t step) const {
    constexpr int64_t kCount = 256;
    C grads[kCount], values[kCount];
    double lanes[kLanes] = {};
    if (!from.data) std::fill(values, values + kCount, C(1));
    for (int64_t x = stretch.begin; x < stretch.end; x += kCount) {
      const int64_t count = std::min(kCount, stretch.end - x);
      const C* first = run_of(grad_output_.at(n, c, y, x), grad_output_.strides[3], count, grads);
      const C* second = from.data ? run_of(from + (x - stretch.begin) * step, step, count, values) : values;
      add_products(first, second, count, lanes);
    }
    double total = 0;
    for (const double lane : lanes) total += lane;
    return total;
  }

  static constexpr int64_t kLanes = 32;
  [[gnu::noinline]] static void add_products(const C* __restrict a, const C* __restrict b, int64_t count,
                                             double* __restrict lanes) {
    double sums[kLanes];
    std::copy(lanes, lanes + kLanes, sums);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      HANDGRAD_SIMD
      for (int64_t lane = 0; lane < kLanes; ++lane)
        sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
    }
    for (int64_t lane = 0; i < count; ++i, ++lane) sums[lane] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    std::copy(sums, sums + kLanes, lanes);
  }
};

// ---- along a direction ----------------------------------------------------------------------------------------------

// The output's derivative along directions of the sources and of the opacities.
template <class C>
class OutputDirection {
 public:
  OutputDirection(const Frame& frame, const Tables& tables, const std::vector<double>& fills, const Derivative& call)
      : frame_(frame), tables_(tables), fills_(fills), output_(mutable_stored_view<C, 4>(call.grad_grad_output)) {
    for (int k = 0; k < kSources; ++k) {
      if (call.sources[k]) sources_[k] = stored_view<C, 4>(*call.sources[k]);
      if (call.directions[k]) directions_[k] = stored_view<C, 4>(*call.directions[k]);
    }
  }

  void run() const {
    for_bands(frame_, tables_, [&](int64_t n, const Bands& bands, const Band& band, int64_t top, int64_t bottom) {
      std::vector<C> sums(static_cast<size_t>(frame_.out_width)), values(sums.size());
      for (const Stretch& stretch : band.stretches) {
        const Coefficients<Dual<double>> all(frame_, tables_, n, stretch.layers);
        for (int64_t y = top; y < bottom; ++y) {
          for (int64_t c = 0; c < frame_.channels; ++c) make(n, c, y, bands, stretch, all, sums.data(), values.data());
        }
      }
    });
  }

 private:
  Frame frame_;
  const Tables& tables_;
  const std::vector<double>& fills_;
  StoredView<C, 4> output_;
  StoredView<const C, 4> sources_[kSources], directions_[kSources];

  void make(int64_t n, int64_t c, int64_t y, const Bands& bands, const Stretch& stretch,
            const Coefficients<Dual<double>>& all, C* sums, C* values) const {
    const int64_t count = stretch.end - stretch.begin;
    const double fill = fills_[static_cast<size_t>(c)];
    double constant = all.fill.tangent * fill;
    std::fill(sums, sums + count, C(0));
    for (uint32_t layers = stretch.layers; layers; layers = without_lowest(layers)) {
      const size_t layer = static_cast<size_t>(lowest(layers));
      const Rectangle& rectangle = bands.rectangles[layer];
      const Dual<double> by = all.layers[layer];
      if (rectangle.source == kSources) {
        constant += by.tangent * fill;
        continue;
      }
      if (directions_[rectangle.source]) {
        add(directions_[rectangle.source], rectangle, c, y, stretch, by.value, sums, values);
      }
      // Of opaque rectangles nothing moves.
      if (tables_.opacities.directions && frame_.blended > 0)
        add(sources_[rectangle.source], rectangle, c, y, stretch, by.tangent, sums, values);
    }
    for (int64_t x = 0; x < count; ++x) sums[x] += static_cast<C>(constant);
    store_run(sums, count, output_.at(n, c, y, stretch.begin), output_.strides[3]);
  }
  static void add(const StoredView<const C, 4>& of, const Rectangle& rectangle, int64_t c, int64_t y,
                  const Stretch& stretch, double by, C* sums, C* values) {
    const int64_t count = stretch.end - stretch.begin;
    const C* from = run_of(of.at(rectangle.image, c, y + rectangle.down, stretch.begin + rectangle.across),
                           of.strides[3], count, values);
    const C factor = static_cast<C>(by);
    HANDGRAD_SIMD
    for (int64_t x = 0; x < count; ++x) sums[x] += factor * from[x];
  }
};

}  // namespace handgrad::paste
