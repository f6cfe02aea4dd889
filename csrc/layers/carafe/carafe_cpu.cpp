// A reassembly of features on the CPU.
//
// Forward: a tile of pixels is a thread's, and all outputs made of them. The gradient of the features: a tile of it is
// a thread's, which adds to it from all pixels whose windows reach it; what belongs to a neighbour's tile is left to
// the neighbour. The gradient of the weights: sums over the channels of a group, for the outputs of a tile.
//
// In order of appearance: Outputs, the forward; FeatureGradients; MaskGradients; the device.
#include "abi/registration.h"
#include "carafe_tiles.h"
#include "cpu/parallel.h"

namespace handgrad::carafe {
namespace {

// Multiplications for each pixel and channel, as vectors of them count as elements.
int64_t work_of_a_tile(const Geometry& geometry, const Tiling& tiling, int64_t channels) {
  return tiling.rows * tiling.columns * geometry.shares() * geometry.taps() * std::max<int64_t>(1, channels) / 16;
}

// Pointers for up to kMostOutputs outputs of pixel x, from output q of a stripe on.
template <class C, class At>
void point_at(const Geometry& geometry, int64_t x, int64_t q, int64_t count, const At& at, C** pointers) {
  for (int64_t k = 0; k < count; ++k) {
    pointers[k] = at((q + k) / geometry.scale, x * geometry.scale + (q + k) % geometry.scale);
  }
}

// ---- Outputs --------------------------------------------------------------------------------------------------------

template <class C>
struct StoredPair {
  StoredView<const C, 4> features, masks;
};

template <class C>
class Outputs {
 public:
  Outputs(const Geometry& geometry, const Tiling& tiling, const std::vector<StoredPair<C>>& pairs,
          const StoredView<C, 4>& output)
      : geometry_(geometry),
        pairs_(pairs),
        output_(output),
        memory_(pairs.size()),
        weights_(pairs.size(), WeightTile<C>(geometry, tiling.columns)),
        sums_(static_cast<size_t>(Stripe::height(geometry) * tiling.columns * geometry.scale * kChunk)),
        scratch_(std::max(tiling.reached_columns(geometry), tiling.columns * geometry.scale)) {}

  void fill(const Tile& tile, const Chunk& chunk) {
    BlockPlane<const C> planes[2];
    for (size_t k = 0; k < pairs_.size(); ++k) {
      planes[k] = pixels_of(pairs_[k].features, tile.n, chunk, tile.reach(geometry_), memory_[k], scratch_);
    }
    for (int64_t y = tile.top; y < tile.bottom; ++y) {
      Stripe::for_each(geometry_, y, [&](const Stripe& stripe) {
        const PixelWindow outputs = stripe.outputs(geometry_, tile.left, tile.right);
        std::fill_n(sums_.begin(), outputs.rows() * outputs.columns() * padded<C>(chunk.count), C(0));
        for (size_t k = 0; k < pairs_.size(); ++k) {
          const Taps down = geometry_.within(y, 0, geometry_.height);
          weights_[k].load(pairs_[k].masks, tile.n, chunk.group, outputs, down);
          for (int64_t x = tile.left; x < tile.right; ++x) add_pixel(planes[k], weights_[k], tile, chunk, y, x);
        }
        store(outputs, tile.n, chunk);
      });
    }
  }

 private:
  void add_pixel(const BlockPlane<const C>& plane, WeightTile<C>& weights, const Tile& tile, const Chunk& chunk,
                 int64_t y, int64_t x) {
    const Taps down = geometry_.within(y, 0, geometry_.height), across = geometry_.within(x, 0, geometry_.width);
    const C* const first = plane.at(y - geometry_.radius() + down.begin, x - geometry_.radius() + across.begin);
    const int64_t channels = padded<C>(chunk.count), width = (tile.right - tile.left) * geometry_.scale;
    in_parts<4, 2, 1>(Stripe::height(geometry_) * geometry_.scale, [&](auto outputs, int64_t q) {
      C *from[kMostOutputs], *to[kMostOutputs];
      point_at(geometry_, x - tile.left, q, outputs, [&](int64_t a, int64_t b) { return weights.at(a, b); }, from);
      point_at(
          geometry_, x - tile.left, q, outputs,
          [&](int64_t a, int64_t b) { return sums_.data() + (a * width + b) * channels; }, to);
      in_parts<kMostVectors, 2, 1>(channels / kOwnLanes<C>, [&](auto vectors, int64_t v) {
        C* sums[kMostOutputs];
        for (int64_t k = 0; k < outputs; ++k) sums[k] = to[k] + v * kOwnLanes<C>;
        const Window<const C> window{down, across, first + v * kOwnLanes<C>, plane.row_stride, plane.pixel_stride};
        add_window<vectors.value, outputs.value, C>(window, geometry_.kernel, from, weights.step(), sums);
      });
    });
  }

  void store(const PixelWindow& outputs, int64_t n, const Chunk& chunk) {
    const ChannelBlock block{n, chunk.first, chunk.count};
    const int64_t channels = padded<C>(chunk.count);
    for (int64_t row = 0; row < outputs.rows(); ++row) {
      store_pixels<kOwnLanes<C>>(sums_.data() + row * outputs.columns() * channels, channels, chunk.count,
                                 outputs.columns(), scratch_,
                                 row_of(output_, block, outputs.row_begin + row, outputs.column_begin));
    }
  }

  const Geometry& geometry_;
  const std::vector<StoredPair<C>>& pairs_;
  const StoredView<C, 4>& output_;
  std::vector<ScratchVector<C>> memory_;
  std::vector<WeightTile<C>> weights_;
  ScratchVector<C> sums_;
  Transposer<kOwnLanes<C>, C> scratch_;
};

template <class C>
void fill_outputs(const Geometry& geometry, const std::vector<StoredPair<C>>& pairs, const Tensor& output) {
  if (output.numel() == 0) return;
  const StoredView<C, 4> view = mutable_stored_view<C, 4>(output);
  const Tiling tiling(geometry, kColumns);
  const std::vector<Chunk> chunks = chunks_of<C>(geometry, kChunk);
  const int64_t count = static_cast<int64_t>(chunks.size());
  const int64_t work = work_of_a_tile(geometry, tiling, chunks[0].count);
  parallel_for(geometry.batch * tiling.count() * count, work, [&](int64_t begin, int64_t end) {
    Outputs<C> outputs(geometry, tiling, pairs, view);
    for (int64_t index = begin; index < end; ++index) {
      outputs.fill(Tile(geometry, tiling, index / count), chunks[static_cast<size_t>(index % count)]);
    }
  });
}

// ---- FeatureGradients -----------------------------------------------------------------------------------------------

template <class C>
class FeatureGradients {
 public:
  FeatureGradients(const Geometry& geometry, const Tiling& tiling, const StoredView<const C, 4>& grad,
                   const StoredView<const C, 4>& masks, const StoredView<C, 4>& result)
      : geometry_(geometry),
        grad_(grad),
        masks_(masks),
        result_(result),
        weights_(geometry, tiling.reached_columns(geometry)),
        sums_(static_cast<size_t>(tiling.rows * tiling.columns * kChunk)),
        scratch_(std::max(tiling.reached_columns(geometry) * geometry.scale, tiling.columns)) {}

  void fill(const Tile& tile, const Chunk& chunk) {
    const int64_t channels = padded<C>(chunk.count), columns = tile.right - tile.left;
    std::fill_n(sums_.begin(), (tile.bottom - tile.top) * columns * channels, C(0));
    const PixelWindow reach = tile.reach(geometry_);
    for (int64_t y = reach.row_begin; y < reach.row_end; ++y) {
      const Taps down = geometry_.within(y, tile.top, tile.bottom);
      Stripe::for_each(geometry_, y, [&](const Stripe& stripe) {
        const PixelWindow outputs = stripe.outputs(geometry_, reach.column_begin, reach.column_end);
        weights_.load(masks_, tile.n, chunk.group, outputs, down);
        const BlockPlane<const C> plane = pixels_of(grad_, tile.n, chunk, outputs, memory_, scratch_);
        for (int64_t x = reach.column_begin; x < reach.column_end; ++x) {
          const Taps across = geometry_.within(x, tile.left, tile.right);
          const int64_t row = y - geometry_.radius() + down.begin - tile.top;
          const int64_t column = x - geometry_.radius() + across.begin - tile.left;
          const Window<C> window{down, across, sums_.data() + (row * columns + column) * channels, columns * channels,
                                 channels};
          spread_pixel(plane, outputs, x - reach.column_begin, window);
        }
      });
    }
    const ChannelBlock block{tile.n, chunk.first, chunk.count};
    for (int64_t y = tile.top; y < tile.bottom; ++y) {
      store_pixels<kOwnLanes<C>>(sums_.data() + (y - tile.top) * columns * channels, channels, chunk.count, columns,
                                 scratch_, row_of(result_, block, y, tile.left));
    }
  }

 private:
  void spread_pixel(const BlockPlane<const C>& plane, const PixelWindow& outputs, int64_t x, const Window<C>& window) {
    in_parts<4, 2, 1>(outputs.rows() * geometry_.scale, [&](auto count, int64_t q) {
      C* weights[kMostOutputs];
      const C* from[kMostOutputs];
      point_at(geometry_, x, q, count, [&](int64_t a, int64_t b) { return weights_.at(a, b); }, weights);
      point_at(
          geometry_, x, q, count,
          [&](int64_t a, int64_t b) { return plane.at(outputs.row_begin + a, outputs.column_begin + b); }, from);
      in_parts<kMostVectors, 2, 1>(window.pixel_step / kOwnLanes<C>, [&](auto vectors, int64_t v) {
        const C* grads[kMostOutputs];
        for (int64_t k = 0; k < count; ++k) grads[k] = from[k] + v * kOwnLanes<C>;
        Window<C> some = window;
        some.first += v * kOwnLanes<C>;
        spread<vectors.value, count.value, C>(grads, weights, weights_.step(), geometry_.kernel, some);
      });
    });
  }

  const Geometry& geometry_;
  const StoredView<const C, 4>&grad_, &masks_;
  const StoredView<C, 4>& result_;
  WeightTile<C> weights_;
  ScratchVector<C> sums_, memory_;
  Transposer<kOwnLanes<C>, C> scratch_;
};

template <class C>
void fill_feature_gradients(const Geometry& geometry, const Tensor& grad_output, const Tensor& masks,
                            const Tensor& result) {
  if (result.numel() == 0) return;
  const StoredView<const C, 4> grad = stored_view<C, 4>(grad_output), weights = stored_view<C, 4>(masks);
  const StoredView<C, 4> view = mutable_stored_view<C, 4>(result);
  const Tiling tiling(geometry, kColumns);
  const std::vector<Chunk> chunks = chunks_of<C>(geometry, kChunk);
  const int64_t count = static_cast<int64_t>(chunks.size());
  const int64_t work = work_of_a_tile(geometry, tiling, chunks[0].count);
  parallel_for(geometry.batch * tiling.count() * count, work, [&](int64_t begin, int64_t end) {
    FeatureGradients<C> gradients(geometry, tiling, grad, weights, view);
    for (int64_t index = begin; index < end; ++index) {
      gradients.fill(Tile(geometry, tiling, index / count), chunks[static_cast<size_t>(index % count)]);
    }
  });
}

// ---- MaskGradients --------------------------------------------------------------------------------------------------

template <class C>
class MaskGradients {
 public:
  MaskGradients(const Geometry& geometry, const Tiling& tiling, const StoredView<const C, 4>& grad,
                const StoredView<const C, 4>& features, const StoredView<C, 4>& result)
      : geometry_(geometry),
        grad_(grad),
        features_(features),
        result_(result),
        weights_(static_cast<size_t>(tiling.rows * geometry.scale / Stripe::height(geometry)),
                 WeightTile<C>(geometry, tiling.columns)),
        scratch_(std::max(tiling.reached_columns(geometry), tiling.columns * geometry.scale)) {}

  // All chunks of a group, one after the other.
  void fill(const Tile& tile, int64_t group, const std::vector<Chunk>& chunks) {
    for (WeightTile<C>& weights : weights_) weights.clear();
    for (const Chunk& chunk : chunks) {
      if (chunk.group != group) continue;
      const BlockPlane<const C> pixels = pixels_of(features_, tile.n, chunk, tile.reach(geometry_), memory_, scratch_);
      for_each_stripe(tile, [&](int64_t y, const PixelWindow& outputs, WeightTile<C>& weights) {
        const BlockPlane<const C> grads = pixels_of(grad_, tile.n, chunk, outputs, grad_memory_, scratch_);
        for (int64_t x = tile.left; x < tile.right; ++x) {
          add_pixel(pixels, grads, padded<C>(chunk.count) / kOwnLanes<C>, y, x, x - tile.left, outputs, weights);
        }
      });
    }
    for_each_stripe(tile, [&](int64_t, const PixelWindow& outputs, WeightTile<C>& weights) {
      weights.store(result_, tile.n, group, outputs);
    });
  }

 private:
  template <class Body>
  void for_each_stripe(const Tile& tile, const Body& body) {
    size_t k = 0;
    for (int64_t y = tile.top; y < tile.bottom; ++y) {
      Stripe::for_each(geometry_, y, [&](const Stripe& stripe) {
        body(y, stripe.outputs(geometry_, tile.left, tile.right), weights_[k++]);
      });
    }
  }

  // The outputs of pixel (y, x), which is at `column` of the tile.
  void add_pixel(const BlockPlane<const C>& pixels, const BlockPlane<const C>& grads, int64_t vectors, int64_t y,
                 int64_t x, int64_t column, const PixelWindow& outputs, WeightTile<C>& weights) {
    in_parts<4, 2, 1>(outputs.rows() * geometry_.scale, [&](auto count, int64_t q) {
      C* to[kMostOutputs];
      const C* from[kMostOutputs];
      point_at(geometry_, column, q, count, [&](int64_t a, int64_t b) { return weights.at(a, b); }, to);
      point_at(geometry_, x, q, count, [&](int64_t a, int64_t b) { return grads.at(outputs.row_begin + a, b); }, from);
      add_taps<count.value>(pixels, y, x, vectors, from, to, weights.step());
    });
  }

  template <int64_t Q>
  void add_taps(const BlockPlane<const C>& pixels, int64_t y, int64_t x, int64_t vectors, const C* const* grads,
                C* const* weights, int64_t step) {
    const Taps down = geometry_.within(y, 0, geometry_.height), across = geometry_.within(x, 0, geometry_.width);
    for (int64_t i = down.begin; i < down.end; ++i) {
      const C* const first = pixels.at(y - geometry_.radius() + i, x - geometry_.radius() + across.begin);
      in_parts<5, 3, 1>(across.end - across.begin, [&](auto taps, int64_t j) {
        C* to[Q];
        for (int64_t q = 0; q < Q; ++q) {
          to[q] = weights[q] + (i * geometry_.kernel + across.begin + j) * step;
        }
        add_channels<taps.value, Q, C>(first + j * pixels.pixel_stride, pixels.pixel_stride, grads, vectors, to, step);
      });
    }
  }

  const Geometry& geometry_;
  const StoredView<const C, 4>&grad_, &features_;
  const StoredView<C, 4>& result_;
  std::vector<WeightTile<C>> weights_;
  ScratchVector<C> memory_, grad_memory_;
  Transposer<kOwnLanes<C>, C> scratch_;
};

template <class C>
void fill_mask_gradients(const Geometry& geometry, const Tensor& grad_output, const Tensor& features,
                         const Tensor& result) {
  if (result.numel() == 0) return;
  const StoredView<const C, 4> grad = stored_view<C, 4>(grad_output), pixels = stored_view<C, 4>(features);
  const StoredView<C, 4> view = mutable_stored_view<C, 4>(result);
  const Tiling tiling(geometry, kSummedColumns);
  const std::vector<Chunk> chunks = chunks_of<C>(geometry, kSummedChunk);
  const int64_t work = work_of_a_tile(geometry, tiling, geometry.group_channels());
  parallel_for(geometry.batch * tiling.count() * geometry.groups, work, [&](int64_t begin, int64_t end) {
    MaskGradients<C> gradients(geometry, tiling, grad, pixels, view);
    for (int64_t index = begin; index < end; ++index) {
      gradients.fill(Tile(geometry, tiling, index / geometry.groups), index % geometry.groups, chunks);
    }
  });
}

// ---- the device -----------------------------------------------------------------------------------------------------

struct OnCpu {
  static void reassemble(const Geometry& geometry, const std::vector<Pair>& pairs, const Tensor& output) {
    dispatch_compute(kOp, output.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      std::vector<StoredPair<C>> stored;
      for (const auto& [features, masks] : pairs) {
        stored.push_back({stored_view<C, 4>(*features), stored_view<C, 4>(*masks)});
      }
      fill_outputs<C>(geometry, stored, output);
    });
  }
  static void differentiate_features(const Geometry& geometry, const Tensor& grad_output, const Tensor& masks,
                                     const Tensor& result) {
    dispatch_compute(kOp, result.scalar_type(), [&](auto tag) {
      fill_feature_gradients<typename decltype(tag)::type>(geometry, grad_output, masks, result);
    });
  }
  static void differentiate_masks(const Geometry& geometry, const Tensor& grad_output, const Tensor& features,
                                  const Tensor& result) {
    dispatch_compute(kOp, result.scalar_type(), [&](auto tag) {
      fill_mask_gradients<typename decltype(tag)::type>(geometry, grad_output, features, result);
    });
  }
};

}  // namespace
}  // namespace handgrad::carafe

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::carafe::implement<handgrad::carafe::OnCpu>(library); }
