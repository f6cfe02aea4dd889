// A correlation on the CPU.
//
// Forward: a tile of outputs, with all displacements of each, is a thread's; it adds products to them, some channels at
// a time, from copies of what both maps have there. Taps of the window are further products. Backward: a tile of a
// gradient; what the outputs that look at its pixels have for gradients is gathered first, once for all channels.
//
// In order of appearance: the tiles; Outputs, the forward; Gradients, the backward of either map; the device.
#include "abi/registration.h"
#include "correlation_tiles.h"
#include "cpu/parallel.h"

namespace handgrad::correlation {
namespace {

// Channels whose products are added at a time.
constexpr int64_t kChannels = 16;
// Bytes of a tile with all displacements: it stays in a core's second-level cache.
constexpr int64_t kTileBytes = 128 << 10;

// A grid of outputs, or of pixels, cut into tiles of vectors.
template <class C>
struct Tiling {
  int64_t height, width, rows = 4, columns, down, across;

  Tiling(int64_t height, int64_t width, int64_t displacements) : height(height), width(width) {
    int64_t vectors = std::min<int64_t>(4, (width + kLanes<C> - 1) / kLanes<C>);
    const auto is_large = [&] { return rows * vectors * displacements > kTileBytes / int64_t{kCacheLine}; };
    while (rows > 1 && (is_large() || rows >= 2 * height)) rows /= 2;
    while (vectors > 1 && is_large()) --vectors;
    columns = vectors * kLanes<C>;
    down = (height + rows - 1) / rows, across = (width + columns - 1) / columns;
  }
  int64_t count() const { return down * across; }
};

struct Tile {
  int64_t n, y, x, rows, columns;

  template <class C>
  Tile(const Tiling<C>& tiling, int64_t index)
      : n(index / tiling.count()),
        y(index % tiling.count() / tiling.across * tiling.rows),
        x(index % tiling.across * tiling.columns),
        rows(std::min(tiling.rows, tiling.height - y)),
        columns(std::min(tiling.columns, tiling.width - x)) {}
};

std::vector<int64_t> begins_of(const Cut& cut, int64_t step) {
  std::vector<int64_t> begins;
  for (int64_t d = 0; d < cut.count; ++d) begins.push_back(cut.begin(d) * step);
  return begins;
}

// ---- Outputs --------------------------------------------------------------------------------------------------------

template <class C>
struct StoredPair {
  StoredView<const C, 4> one, other;
};

template <class C>
class Outputs {
 public:
  Outputs(const Geometry& geometry, const Tiling<C>& tiling)
      : geometry_(geometry),
        tiling_(tiling),
        rows_(tiling.rows, geometry.y.stride, geometry.y.displacements(), geometry.y.step),
        columns_(tiling.columns, geometry.x.stride, geometry.x.displacements(), geometry.x.step),
        one_({tiling.rows, geometry.y.stride, 1, tiling.rows * geometry.y.stride},
             {tiling.columns, geometry.x.stride, 1, tiling.columns * geometry.x.stride}, kChannels),
        other_(rows_, columns_, kChannels),
        begins_(begins_of(columns_, 1)),
        sums_(static_cast<size_t>(tiling.rows * geometry.displacements() * tiling.columns)) {}

  void fill(const Tile& tile, const std::vector<StoredPair<C>>& pairs, const StoredView<C, 5>& output) {
    std::fill(sums_.begin(), sums_.end(), C(0));
    for (const StoredPair<C>& pair : pairs) {
      for (int64_t i = 0; i < geometry_.y.kernel; ++i) {
        for (int64_t j = 0; j < geometry_.x.kernel; ++j) add_tap(tile, pair, i, j);
      }
    }
    store(tile, output);
  }

 private:
  void add_tap(const Tile& tile, const StoredPair<C>& pair, int64_t i, int64_t j) {
    const Axis &along_y = geometry_.y, &along_x = geometry_.x;
    const int64_t y = along_y.pixel(tile.y, i), x = along_x.pixel(tile.x, j);
    for (int64_t c = 0; c < geometry_.channels; c += kChannels) {
      const int64_t channels = std::min(kChannels, geometry_.channels - c);
      one_.load(pair.one, geometry_, tile.n, c, channels, y, x);
      other_.load(pair.other, geometry_, tile.n, c, channels, y + along_y.shift(0), x + along_x.shift(0));
      for (int64_t r = 0; r < tile.rows; ++r) {
        for (int64_t p = 0; p < along_y.displacements(); ++p) {
          const C* const one = one_.data() + r * one_.row_step();
          const C* const other = other_.data() + (rows_.begin(p) + r) * other_.row_step();
          for (int64_t v = 0; v < tile.columns; v += kLanes<C>) {
            add_all_products(one + v, one_.step(), other + v, other_.step(), begins_, channels, sums(r, p) + v,
                             tiling_.columns);
          }
        }
      }
    }
  }

  C* sums(int64_t r, int64_t p) {
    return sums_.data() + (r * geometry_.y.displacements() + p) * geometry_.x.displacements() * tiling_.columns;
  }

  void store(const Tile& tile, const StoredView<C, 5>& output) {
    const C scale = static_cast<C>(geometry_.scale);
    if (geometry_.scale != 1) {
      HANDGRAD_SIMD
      for (size_t i = 0; i < sums_.size(); ++i) sums_[i] *= scale;
    }
    for (int64_t p = 0; p < geometry_.y.displacements(); ++p) {
      for (int64_t q = 0; q < geometry_.x.displacements(); ++q) {
        for (int64_t r = 0; r < tile.rows; ++r) {
          store_run(sums(r, p) + q * tiling_.columns, tile.columns, output.at(tile.n, p, q, tile.y + r, tile.x), 1);
        }
      }
    }
  }

  const Geometry& geometry_;
  const Tiling<C>& tiling_;
  const Cut rows_, columns_;
  MapTile<C> one_, other_;
  const std::vector<int64_t> begins_;
  ScratchVector<C> sums_;
};

template <class C>
void fill_outputs(const Geometry& geometry, const std::vector<StoredPair<C>>& pairs, const Tensor& output) {
  if (output.numel() == 0) return;
  const StoredView<C, 5> view = mutable_stored_view<C, 5>(output);
  const Tiling<C> tiling(geometry.y.out, geometry.x.out, geometry.displacements());
  const int64_t products = std::max<int64_t>(1, geometry.channels * geometry.y.kernel * geometry.x.kernel);
  const int64_t work = tiling.rows * tiling.columns * geometry.displacements() * products / 8;
  parallel_for(geometry.batch * tiling.count(), work, [&](int64_t begin, int64_t end) {
    Outputs<C> outputs(geometry, tiling);
    for (int64_t index = begin; index < end; ++index) outputs.fill(Tile(tiling, index), pairs, view);
  });
}

// ---- Gradients ------------------------------------------------------------------------------------------------------

// The gradient of the first map: of each pixel, the sum over displacements of the gathered gradients there times the
// second map's pixels. Mirrored, that of the second: displacements are counted from the last to the first, so that they
// lead from its pixels to those of the first map, where the gradients are gathered.
template <class C>
class Gradients {
 public:
  Gradients(const Geometry& geometry, const Tiling<C>& tiling, bool mirrored)
      : geometry_(geometry),
        tiling_(tiling),
        mirrored_(mirrored),
        rows_(tiling.rows, 1, geometry.y.displacements(), geometry.y.step),
        columns_(tiling.columns, 1, geometry.x.displacements(), geometry.x.step),
        map_(rows_, columns_, kGradChannels),
        row_begins_(begins_of(rows_, map_.row_step())),
        begins_(begins_of(columns_, 1)),
        weights_(static_cast<size_t>(tiling.rows * geometry.displacements() * tiling.columns)),
        run_(static_cast<size_t>(tiling.columns)),
        sums_(static_cast<size_t>(kGradChannels * tiling.columns)) {}

  void fill(const Tile& tile, const StoredView<const C, 5>& grad, const StoredView<const C, 4>& map,
            const StoredView<C, 4>& result) {
    gather(tile, grad);
    const int64_t y = tile.y + geometry_.y.shift(0), x = tile.x + geometry_.x.shift(0);
    const int64_t displacements = geometry_.displacements();
    for (int64_t c = 0; c < geometry_.channels; c += kGradChannels) {
      map_.load(map, geometry_, tile.n, c, kGradChannels, y, x);
      for (int64_t r = 0; r < tile.rows; ++r) {
        for (int64_t v = 0; v < tile.columns; v += kLanes<C>) {
          sum_displacements(weights_.data() + r * displacements * tiling_.columns + v, tiling_.columns,
                            map_.data() + r * map_.row_step() + v, map_.step(), row_begins_, begins_, sums_.data() + v,
                            tiling_.columns);
        }
        for (int64_t k = 0; k < std::min(kGradChannels, geometry_.channels - c); ++k) {
          store_run(sums_.data() + k * tiling_.columns, tile.columns, result.at(tile.n, c + k, tile.y + r, tile.x),
                    result.strides[3]);
        }
      }
    }
  }

 private:
  // weights[r, p, q, x] = the sum of the gradients of the outputs whose window has the first map's pixel in it.
  void gather(const Tile& tile, const StoredView<const C, 5>& grad) {
    std::fill(weights_.begin(), weights_.end(), C(0));
    const Axis &along_y = geometry_.y, &along_x = geometry_.x;
    const int64_t down = along_y.displacements(), across = along_x.displacements();
    C* to = weights_.data();
    for (int64_t r = 0; r < tile.rows; ++r) {
      for (int64_t p = 0; p < down; ++p) {
        const int64_t row = tile.y + r + (mirrored_ ? along_y.shift(p) : 0);
        for (int64_t q = 0; q < across; ++q, to += tiling_.columns) {
          const int64_t column = tile.x + (mirrored_ ? along_x.shift(q) : 0);
          for (int64_t i = 0; i < along_y.kernel; ++i) {
            const int64_t y = along_y.output_of(row, i);
            if (y < 0) continue;
            const Stored<const C> outputs =
                mirrored_ ? grad.at(tile.n, down - 1 - p, across - 1 - q, y, 0) : grad.at(tile.n, p, q, y, 0);
            for (int64_t j = 0; j < along_x.kernel; ++j) add_run(outputs, grad.strides[4], column, j, to);
          }
        }
      }
    }
    if (geometry_.scale == 1) return;
    const C scale = static_cast<C>(geometry_.scale);
    HANDGRAD_SIMD
    for (size_t i = 0; i < weights_.size(); ++i) weights_[i] *= scale;
  }

  // Adds a row of outputs to those of the tile's columns, which begin at `column`, that a tap of them reads.
  void add_run(const Stored<const C>& outputs, int64_t step, int64_t column, int64_t tap, C* to) {
    const Axis& along = geometry_.x;
    const int64_t first = column - along.pixel(0, tap);  // the first column, in pixels from output 0's
    const int64_t begin = std::clamp<int64_t>(ceil_divide(first, along.stride), 0, along.out);
    const int64_t end = std::clamp<int64_t>(ceil_divide(first + tiling_.columns, along.stride), begin, along.out);
    if (begin == end) return;
    load_run(outputs + begin * step, step, end - begin, run_.data());
    C* const at = to + begin * along.stride - first;
    if (along.stride == 1) {
      HANDGRAD_SIMD
      for (int64_t k = 0; k < end - begin; ++k) at[k] += run_[static_cast<size_t>(k)];
    } else {
      for (int64_t k = 0; k < end - begin; ++k) at[k * along.stride] += run_[static_cast<size_t>(k)];
    }
  }

  const Geometry& geometry_;
  const Tiling<C>& tiling_;
  const bool mirrored_;
  const Cut rows_, columns_;
  MapTile<C> map_;
  const std::vector<int64_t> row_begins_, begins_;
  ScratchVector<C> weights_, run_, sums_;
};

template <class C>
void fill_gradients(const Geometry& geometry, bool mirrored, const Tensor& grad_output, const Tensor& map,
                    const Tensor& result) {
  if (result.numel() == 0) return;
  const StoredView<const C, 5> grad = stored_view<C, 5>(grad_output);
  const StoredView<const C, 4> pixels = stored_view<C, 4>(map);
  const StoredView<C, 4> view = mutable_stored_view<C, 4>(result);
  const Tiling<C> tiling(geometry.y.size, geometry.x.size, geometry.displacements());
  const int64_t work = tiling.rows * tiling.columns * geometry.displacements() * geometry.channels / 8;
  parallel_for(geometry.batch * tiling.count(), work, [&](int64_t begin, int64_t end) {
    Gradients<C> gradients(geometry, tiling, mirrored);
    for (int64_t index = begin; index < end; ++index) gradients.fill(Tile(tiling, index), grad, pixels, view);
  });
}

// ---- the device -----------------------------------------------------------------------------------------------------

struct OnCpu {
  static void correlate(const Geometry& geometry, const std::vector<Pair>& pairs, const Tensor& output) {
    dispatch_compute(kOp, output.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      std::vector<StoredPair<C>> stored;
      for (const auto& [one, other] : pairs) stored.push_back({stored_view<C, 4>(*one), stored_view<C, 4>(*other)});
      fill_outputs<C>(geometry, stored, output);
    });
  }
  static void differentiate(const Geometry& geometry, bool mirrored, const Tensor& grad_output, const Tensor& map,
                            const Tensor& result) {
    dispatch_compute(kOp, result.scalar_type(), [&](auto tag) {
      fill_gradients<typename decltype(tag)::type>(geometry, mirrored, grad_output, map, result);
    });
  }
};

}  // namespace
}  // namespace handgrad::correlation

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::correlation::implement<handgrad::correlation::OnCpu>(library);
}
