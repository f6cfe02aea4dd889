// A lookup of correlations on the CPU.
//
// A run of a row's pixels is a thread's: forward and for the gradients of the first map and of the points, which are a
// pixel's own. The gradient of the second map, which pixels have in common, is made of an image and some channels by
// one thread, which adds pixel after pixel.
//
// In order of appearance: Operands; Run, a run of pixels and what is made of one; the passes; the device.
#include "abi/registration.h"
#include "correlation_lookup_rows.h"

namespace handgrad::correlation_lookup {
namespace {

// Pixels of a run.
constexpr int64_t kPixels = 32;
// Channels of the second map's gradient that a thread has at a time.
constexpr int64_t kGradChannels = 64;

// What is looked at, and how it moves (double backward only).
template <class C>
struct Operands {
  StoredView<const C, 4> fmap1, v_fmap1, grad;
  View<const C, 4> coords, v_coords;
  MapPixels<C> fmap2, v_fmap2;

  // The second map is copied where its pixels lie apart, so only for passes that read it.
  Operands(const Inputs& inputs, const Results& results)
      : fmap1(stored_view<C, 4>(inputs.fmap1)),
        coords(view<C, 4>(inputs.coords)),
        fmap2(inputs.geometry, reads_fmap2(results) ? &inputs.fmap2 : nullptr),
        v_fmap2(inputs.geometry, reads_fmap2(results) ? inputs.along.fmap2 : nullptr) {
    if (inputs.grad_output) grad = stored_view<C, 4>(*inputs.grad_output);
    if (inputs.along.fmap1) v_fmap1 = stored_view<C, 4>(*inputs.along.fmap1);
    if (inputs.along.coords) v_coords = view<C, 4>(*inputs.along.coords);
  }
  static bool reads_fmap2(const Results& results) {
    return results.wants_output || results.wants_fmap1 || results.wants_coords;
  }
};

// A run of pixels of a row, and what a thread makes of one at a time.
template <class C>
class Run {
 public:
  Run(const Geometry& geometry, const Operands<C>& operands, int64_t channels)
      : geometry(geometry),
        operands(operands),
        features(kPixels, channels),
        v_features(operands.v_fmap1 ? kPixels : 0, channels),
        products(static_cast<size_t>(geometry.window())),
        v_products(products.size()),
        factors(products.size()),
        v_factors(products.size()),
        values(static_cast<size_t>(geometry.outputs() * kPixels)),
        framed_(static_cast<size_t>((geometry.side() + 1) * (geometry.side() + 1))) {}

  void move_to(int64_t index) {
    const int64_t across = (geometry.width + kPixels - 1) / kPixels;
    first = index % across * kPixels, count = std::min(kPixels, geometry.width - first);
    y = index / across % geometry.height, n = index / across / geometry.height;
  }
  static int64_t runs(const Geometry& geometry) {
    return geometry.batch * geometry.height * ((geometry.width + kPixels - 1) / kPixels);
  }

  void load_features(int64_t channel, int64_t channels) {
    features.load(operands.fmap1, n, channel, channels, y, first, count);
    if (operands.v_fmap1) v_features.load(operands.v_fmap1, n, channel, channels, y, first, count);
  }
  // The gradients of the outputs: values[output][pixel].
  void load_grads() {
    for (int64_t k = 0; k < geometry.outputs(); ++k) {
      load_run(operands.grad.at(n, k, y, first), operands.grad.strides[3], count, values.data() + k * kPixels);
    }
  }

  Window<C> window(int64_t x) const {
    return Window<C>(*operands.coords.at(n, 0, y, first + x), *operands.coords.at(n, 1, y, first + x), geometry.radius,
                     geometry.map_height, geometry.map_width);
  }
  C v_x(int64_t x) const { return operands.v_coords ? *operands.v_coords.at(n, 0, y, first + x) : C(0); }
  C v_y(int64_t x) const { return operands.v_coords ? *operands.v_coords.at(n, 1, y, first + x) : C(0); }

  void find_products(const Window<C>& window, int64_t x) {
    std::fill(products.begin(), products.end(), C(0));
    add_products(geometry, window, features.at(x), features.channels(), operands.fmap2, n, products.data());
  }
  // How they change.
  void find_v_products(const Window<C>& window, int64_t x) {
    std::fill(v_products.begin(), v_products.end(), C(0));
    if (operands.v_fmap1) {
      add_products(geometry, window, v_features.at(x), features.channels(), operands.fmap2, n, v_products.data());
    }
    if (operands.v_fmap2) {
      add_products(geometry, window, features.at(x), features.channels(), operands.v_fmap2, n, v_products.data());
    }
  }

  // What products have for gradients, from the outputs' and the weights that `weight` gives of a corner.
  template <class Weight>
  void find_factors(int64_t x, const Weight& weight, ScratchVector<C>& to) {
    const int64_t side = geometry.side(), frame = side + 1, across = geometry.across();
    // With zeros around them, so that every product is one of four corners of four outputs.
    std::fill(framed_.begin(), framed_.end(), C(0));
    for (int64_t a = 0; a < across; ++a) {
      for (int64_t b = 0; b < across; ++b) {
        framed_[static_cast<size_t>((a + 1) * frame + b + 1)] =
            values[static_cast<size_t>((a * across + b) * kPixels + x)];
      }
    }
    const C scale = static_cast<C>(geometry.scale);
    const C weights[4] = {scale * weight(0), scale * weight(1), scale * weight(2), scale * weight(3)};
    for (int64_t j = 0; j < side; ++j) {
      const C *right = framed_.data() + (j + 1) * frame, *left = right - frame;
      C* const of_column = to.data() + j * side;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < side; ++i) {
        of_column[i] =
            weights[0] * right[i + 1] + weights[1] * right[i] + weights[2] * left[i + 1] + weights[3] * left[i];
      }
    }
  }
  void find_all_factors(const Window<C>& window, int64_t x) {
    find_factors(x, [&](int q) { return window.weight(q); }, factors);
    if (operands.v_coords) {
      const C vx = v_x(x), vy = v_y(x);
      find_factors(x, [&](int q) { return window.weight_change(q, vx, vy); }, v_factors);
    }
  }

  // The four products of an output.
  void corners(const ScratchVector<C>& of, int64_t a, int64_t b, C (&d)[4]) const {
    const C* const at = of.data() + a * geometry.side() + b;
    d[0] = at[0], d[1] = at[1], d[2] = at[geometry.side()], d[3] = at[geometry.side() + 1];
  }

  const Geometry& geometry;
  const Operands<C>& operands;
  int64_t n = 0, y = 0, first = 0, count = 0;
  FeatureRun<C> features, v_features;
  ScratchVector<C> products, v_products, factors, v_factors;  // [columns][rows] of a window
  ScratchVector<C> values;                                    // [outputs][pixels]

 private:
  ScratchVector<C> framed_;
};

int64_t work_of_a_run(const Geometry& geometry) {
  return kPixels * geometry.window() * std::max<int64_t>(1, geometry.channels) / 8;
}

// ---- the passes -----------------------------------------------------------------------------------------------------

// The output; for Twice its change along the directions.
template <bool Twice, class C>
void look_up(const Geometry& geometry, const Operands<C>& operands, const StoredView<C, 4>& output) {
  parallel_for(Run<C>::runs(geometry), work_of_a_run(geometry), [&](int64_t begin, int64_t end) {
    Run<C> run(geometry, operands, geometry.channels);
    for (int64_t index = begin; index < end; ++index) {
      run.move_to(index);
      run.load_features(0, geometry.channels);
      for (int64_t x = 0; x < run.count; ++x) {
        const Window<C> window = run.window(x);
        const C vx = run.v_x(x), vy = run.v_y(x);
        if (!Twice || operands.v_coords) run.find_products(window, x);
        if (Twice) run.find_v_products(window, x);
        for (int64_t a = 0; a < geometry.across(); ++a) {
          for (int64_t b = 0; b < geometry.across(); ++b) {
            C d[4], value;
            run.corners(Twice ? run.v_products : run.products, a, b, d);
            value = window.value(d);
            if (Twice && operands.v_coords) {
              run.corners(run.products, a, b, d);
              value += vx * window.along_x(d) + vy * window.along_y(d);
            }
            run.values[static_cast<size_t>((a * geometry.across() + b) * kPixels + x)] =
                window.is_nan ? std::numeric_limits<C>::quiet_NaN() : value;
          }
        }
      }
      for (int64_t k = 0; k < geometry.outputs(); ++k) {
        store_run(run.values.data() + k * kPixels, run.count, output.at(run.n, k, run.y, run.first), 1);
      }
    }
  });
}

// The gradients of the points: of the products' slopes; for Twice their change.
template <bool Twice, class C>
void differentiate_point(Run<C>& run, const Window<C>& window, int64_t x, const View<C, 4>& result) {
  const Geometry& geometry = run.geometry;
  const C vx = run.v_x(x), vy = run.v_y(x);
  run.find_products(window, x);
  if (Twice) run.find_v_products(window, x);
  C grad_x = 0, grad_y = 0;
  for (int64_t a = 0; a < geometry.across(); ++a) {
    for (int64_t b = 0; b < geometry.across(); ++b) {
      const C grad = run.values[static_cast<size_t>((a * geometry.across() + b) * kPixels + x)];
      C d[4];
      if constexpr (Twice) {
        run.corners(run.products, a, b, d);
        const C both = window.along_both(d);
        run.corners(run.v_products, a, b, d);
        grad_x += grad * (window.along_x(d) + vy * both);
        grad_y += grad * (window.along_y(d) + vx * both);
      } else {
        run.corners(run.products, a, b, d);
        grad_x += grad * window.along_x(d);
        grad_y += grad * window.along_y(d);
      }
    }
  }
  const C nan = std::numeric_limits<C>::quiet_NaN();
  *result.at(run.n, 0, run.y, run.first + x) = window.is_nan ? nan : grad_x;
  *result.at(run.n, 1, run.y, run.first + x) = window.is_nan ? nan : grad_y;
}

// The gradients of a pixel's own: its features, its point.
template <bool Twice, class C>
void differentiate_pixels(const Geometry& geometry, const Operands<C>& operands, const StoredView<C, 4>& of_fmap1,
                          const View<C, 4>& of_coords) {
  parallel_for(Run<C>::runs(geometry), work_of_a_run(geometry), [&](int64_t begin, int64_t end) {
    Run<C> run(geometry, operands, geometry.channels);
    const int64_t channels = run.features.channels();
    ScratchVector<C> sums(static_cast<size_t>(channels));
    for (int64_t index = begin; index < end; ++index) {
      run.move_to(index);
      run.load_grads();
      if (of_coords) run.load_features(0, geometry.channels);
      for (int64_t x = 0; x < run.count; ++x) {
        const Window<C> window = run.window(x);
        if (of_coords) differentiate_point<Twice>(run, window, x, of_coords);
        if (!of_fmap1) continue;
        std::fill(sums.begin(), sums.end(), window.is_nan ? std::numeric_limits<C>::quiet_NaN() : C(0));
        if (!window.is_outside()) {
          run.find_all_factors(window, x);
          const MapPixels<C>& straight = Twice ? operands.v_fmap2 : operands.fmap2;
          if (straight) add_pixels(geometry, window, run.factors.data(), straight, run.n, channels, sums.data());
          if (Twice && operands.v_coords) {
            add_pixels(geometry, window, run.v_factors.data(), operands.fmap2, run.n, channels, sums.data());
          }
        }
        store_run(sums.data(), geometry.channels, of_fmap1.at(run.n, 0, run.y, run.first + x), of_fmap1.strides[1]);
      }
    }
  });
}

// The gradient of the second map.
template <bool Twice, class C>
void differentiate_map(const Geometry& geometry, const Operands<C>& operands, const StoredView<C, 4>& result) {
  const int64_t pieces = (geometry.channels + kGradChannels - 1) / kGradChannels;
  const int64_t pixels = geometry.map_height * geometry.map_width, runs = Run<C>::runs(geometry) / geometry.batch;
  parallel_for(geometry.batch * pieces, runs * work_of_a_run(geometry) / pieces, [&](int64_t begin, int64_t end) {
    Run<C> run(geometry, operands, std::min(kGradChannels, geometry.channels));
    const int64_t step = run.features.channels();
    ScratchVector<C> image(static_cast<size_t>(pixels * step)), line(static_cast<size_t>(geometry.map_width));
    for (int64_t index = begin; index < end; ++index) {
      const int64_t n = index / pieces, channel = index % pieces * kGradChannels;
      const int64_t channels = std::min(kGradChannels, geometry.channels - channel);
      std::fill(image.begin(), image.end(), C(0));
      for (int64_t k = 0; k < runs; ++k) {
        run.move_to(n * runs + k);
        run.load_grads();
        run.load_features(channel, channels);
        for (int64_t x = 0; x < run.count; ++x) {
          const Window<C> window = run.window(x);
          if (window.is_outside()) continue;
          run.find_all_factors(window, x);
          if (!Twice || operands.v_fmap1) {
            scatter_pixels(geometry, window, run.factors.data(), Twice ? run.v_features.at(x) : run.features.at(x),
                           step, image.data());
          }
          if (Twice && operands.v_coords) {
            scatter_pixels(geometry, window, run.v_factors.data(), run.features.at(x), step, image.data());
          }
        }
      }
      for (int64_t row = 0; row < geometry.map_height; ++row) {
        for (int64_t c = 0; c < channels; ++c) {
          const C* const from = image.data() + row * geometry.map_width * step + c;
          for (int64_t x = 0; x < geometry.map_width; ++x) line[static_cast<size_t>(x)] = from[x * step];
          store_run(line.data(), geometry.map_width, result.at(n, channel + c, row, 0), result.strides[3]);
        }
      }
    }
  });
}

template <bool Twice, class C>
void differentiate(const Geometry& geometry, const Operands<C>& operands, const Results& results) {
  const StoredView<C, 4> of_fmap1 = mutable_stored_view_if<C, 4>(results.wants_fmap1, results.fmap1);
  const View<C, 4> of_coords = mutable_view_if<C, 4>(results.wants_coords, results.coords);
  const bool has_pixels = geometry.batch * geometry.height * geometry.width > 0;
  if (has_pixels && (of_fmap1 || of_coords)) differentiate_pixels<Twice>(geometry, operands, of_fmap1, of_coords);
  if (!results.wants_fmap2 || results.fmap2.numel() == 0) return;
  if (!has_pixels) return fill_zero(results.fmap2);
  differentiate_map<Twice>(geometry, operands, mutable_stored_view<C, 4>(results.fmap2));
}

// ---- the device -----------------------------------------------------------------------------------------------------

struct OnCpu {
  template <bool Twice>
  static void run(const Inputs& inputs, const Results& results) {
    dispatch_compute(kOp, inputs.fmap1.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      const Operands<C> operands(inputs, results);
      if (results.wants_output && results.output.numel() > 0) {
        look_up<Twice>(inputs.geometry, operands, mutable_stored_view<C, 4>(results.output));
      }
      differentiate<Twice>(inputs.geometry, operands, results);
    });
  }
};

}  // namespace
}  // namespace handgrad::correlation_lookup

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::correlation_lookup::implement<handgrad::correlation_lookup::OnCpu>(library);
}
