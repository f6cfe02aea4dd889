// What one thread does on the CPU: with a block of channels and all points of an image, with some pixels of its
// gradient, or with some points.
//
// In order of appearance: Operands, the tensors of a call; Contributions, of blocks to the gradient of the grid;
// Worker.
#pragma once

#include <memory>

#include "grid_sample_blocks.h"

namespace handgrad::grid_sample {

template <class C>
struct Operands {
  StoredView<const C, 3> input, v_input;  // [N, C, pixels]
  StoredView<const C, 3> grad_output;     // [N, C, points]
  StoredView<C, 3> output;                // [N, C, points]
  StoredView<C, 3> grad_input;            // [N, C, pixels]
  View<const C, 3> grid, v_grid;          // [N, points, axes]
  View<C, 3> grad_grid;                   // [N, points, axes]
  // In place of input, of images from `first_turned` on: [1 + pixels, kQuad].
  const C* turned = nullptr;
  int64_t first_turned = 0;
};

// The gradient of the grid that the blocks but the first contribute.
template <class C>
struct Contributions {
  const Geometry& geometry;
  ScratchVector<C> memory;

  Contributions(const Geometry& geometry, int64_t blocks)
      : geometry(geometry), memory(static_cast<size_t>((blocks - 1) * size())) {}

  int64_t size() const { return geometry.batch * geometry.points * geometry.axes; }
  C* at(int64_t block, int64_t n, int64_t point, C* first) {
    C* const of_block = block == 0 ? first : memory.data() + (block - 1) * size();
    return of_block + (n * geometry.points + point) * geometry.axes;
  }
  void add_to(C* first) const {
    parallel_for(size(), 1, [&](int64_t begin, int64_t end) {
      for (size_t from = 0; from < memory.size(); from += static_cast<size_t>(size())) {
        const C* const block = memory.data() + from;
        HANDGRAD_SIMD
        for (int64_t i = begin; i < end; ++i) first[i] += block[i];
      }
    });
  }
};

// What is made of the points: bits.
enum Part { kOutput = 1, kScatter = 2, kSums = 4 };

template <class C, int64_t Width, Order What, int Parts>
class Worker {
 public:
  Worker(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry),
        operands_(operands),
        run_(std::make_unique<TapRun<C>>(geometry)),
        outputs_(Parts & kOutput ? kRun * Width : 0),
        grads_(Parts & (kScatter | kSums) ? kRun * Width : 0) {}

  // A block of channels, all points.
  void take_block(const ChannelBlock& block, Contributions<C>& contributions) {
    load(block);
    if (scatters()) grad_plane_ = clear_plane<Width>(operands_.grad_input, block, geometry_.pixels, grad_memory_);
    for (int64_t point = 0; point < geometry_.points; point += kRun) {
      const int64_t count = std::min(kRun, geometry_.points - point);
      run_->template find<What>(operands_.grid, operands_.v_grid, block.n, point, count);
      clear_sums();
      take_run(block, point, count);
      if (sums()) {
        store_sums(contributions.at(block.first / Width, block.n, point, operands_.grad_grid.data), count);
      }
    }
    if (scatters()) store_plane<Width>(grad_plane_, operands_.grad_input, block, geometry_.pixels, turning_);
  }

  // Those parts of an image's gradient that belong to the pixels [begin, end) of its planes: planes of one channel lie
  // in place and hold zeros, others are made here.
  void take_pixels(int64_t n, int32_t begin, int32_t end) {
    if constexpr (Width > 1) {
      grad_memory_.assign(static_cast<size_t>((end - begin) * Width), C(0));
      grad_plane_ = {grad_memory_.data(), Width};
    }
    for (int64_t point = 0; point < geometry_.points; point += kRun) {
      const int64_t count = std::min(kRun, geometry_.points - point);
      run_->template find<What>(operands_.grid, operands_.v_grid, n, point, count);
      for (int64_t c = 0; c < geometry_.channels; c += Width) {
        const ChannelBlock block{n, c, std::min(Width, geometry_.channels - c)};
        load_group<Width>(operands_.grad_output, block, point, count, turning_, grads_.data());
        if constexpr (Width == 1) {
          grad_plane_ = plane_in_place(operands_.grad_input, block);
          grad_plane_.data = grad_plane_.at(begin);
        }
        scatter_points<Width>(*run_, run_->weight, grads_.data(), count, begin, end, grad_plane_);
      }
    }
    if constexpr (Width > 1) {
      const ChannelBlock block{n, 0, geometry_.channels};
      for (int64_t i = begin; i < end; i += kTurned) {
        store_group<Width>(grad_plane_.at(static_cast<int32_t>(i - begin)), operands_.grad_input, block, i,
                           std::min<int64_t>(kTurned, end - i), turning_);
      }
    }
  }

  // Some points of an image, all blocks of it, which lie in place.
  void take_chunk(int64_t n, int64_t first, int64_t last) {
    for (int64_t point = first; point < last; point += kRun) {
      const int64_t count = std::min(kRun, last - point);
      run_->template find<What>(operands_.grid, operands_.v_grid, n, point, count);
      clear_sums();
      for (int64_t c = 0; c < geometry_.channels; c += Width) {
        const ChannelBlock block{n, c, std::min(Width, geometry_.channels - c)};
        load(block);
        take_run(block, point, count);
      }
      if (sums()) store_sums(operands_.grad_grid.at(n, point, 0), count);
    }
  }

 private:
  bool makes_output() const { return Parts & kOutput && operands_.output; }
  bool scatters() const { return Parts & kScatter && operands_.grad_input; }
  bool sums() const { return Parts & kSums && operands_.grad_grid; }

  void load(const ChannelBlock& block) {
    if (operands_.turned) {
      const int64_t n = block.n - operands_.first_turned;
      plane_ = {operands_.turned + (n * (geometry_.pixels + 1) + 1) * Width, Width};
      return;
    }
    if (makes_output() || sums()) {
      plane_ = load_plane<Width>(operands_.input, block, geometry_.pixels, memory_, turning_);
    }
    if (What == kChanges && operands_.v_input) {
      v_plane_ = load_plane<Width>(operands_.v_input, block, geometry_.pixels, v_memory_, turning_);
    }
  }

  void take_run(const ChannelBlock& block, int64_t point, int64_t count) {
    if (makes_output()) {
      if constexpr (What == kChanges) {
        sample_points<Width>(*run_, run_->change, plane_, count, false, outputs_.data());
        if (v_plane_.data) sample_points<Width>(*run_, run_->weight, v_plane_, count, true, outputs_.data());
      } else {
        sample_points<Width>(*run_, run_->weight, plane_, count, false, outputs_.data());
      }
      store_group<Width>(outputs_.data(), operands_.output, block, point, count, turning_);
    }
    if (!scatters() && !sums()) return;
    load_group<Width>(operands_.grad_output, block, point, count, turning_, grads_.data());
    if (scatters()) {
      scatter_points<Width>(*run_, What == kChanges ? run_->change : run_->weight, grads_.data(), count, 0, INT32_MAX,
                            grad_plane_);
    }
    if (!sums()) return;
    if constexpr (What == kChanges) {
      add_sums(run_->slope_change, plane_, count);
      if (v_plane_.data) add_sums(run_->slope, v_plane_, count);
    } else if constexpr ((Parts & kSums) != 0) {
      add_sums(run_->slope, plane_, count);
    }
  }

  void add_sums(const typename TapRun<C>::OfTaps (&slopes)[3], const Plane<const C>& plane, int64_t count) {
    if (geometry_.axes == 2) {
      sum_points<Width, 2>(*run_, slopes, plane, grads_.data(), count, sums_);
    } else {
      sum_points<Width, 3>(*run_, slopes, plane, grads_.data(), count, sums_);
    }
  }
  void clear_sums() {
    if (sums()) std::fill_n(sums_[0], 3 * kRun, C(0));
  }
  void store_sums(C* to, int64_t count) const {
    for (int64_t p = 0; p < count; ++p) {
      for (int32_t a = 0; a < geometry_.axes; ++a) to[p * geometry_.axes + a] = sums_[a][p];
    }
  }

  const Geometry& geometry_;
  const Operands<C>& operands_;
  std::unique_ptr<TapRun<C>> run_;
  Turning<Width, C> turning_;
  ScratchVector<C> memory_, v_memory_, grad_memory_, outputs_, grads_;
  Plane<const C> plane_, v_plane_;
  Plane<C> grad_plane_;
  C sums_[3][kRun];
};

}  // namespace handgrad::grid_sample
