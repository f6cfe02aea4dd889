// RoI pooling on the CPU.
//
// A block of channels of an image is brought into the order (row, column, channel) if it is not in it, as far as boxes
// reach, and then all boxes of the image pass over it: the largest pixel of a bin is found for a few vectors of
// channels at once (cpu/box_bins.h). The backward finds it once more, with where it is, instead of having kept that: it
// is as large as the output. One block of one image is one thread's, so that sums have the order of boxes.
//
// In order of appearance: BoxRuns, the bins of one box; find_largest, the loop over the pixels of a bin; Operands, the
// tensors of a call; Pass, a thread's work, forward and in both derivatives; the host entries.
#include <limits>

#include "abi/registration.h"
#include "cpu/box_bins.h"
#include "cpu/box_taps.h"
#include "roi_pool_host.h"

namespace handgrad::roi_pool {
namespace {

// The rows of pooled_h bins, and the columns of pooled_w.
class BoxRuns {
 public:
  bool is_nonfinite = false;
  PixelWindow window;

  template <class C>
  void build(const WholeAxis<C>& axis_h, const WholeAxis<C>& axis_w) {
    is_nonfinite = axis_h.is_nonfinite || axis_w.is_nonfinite;
    if (is_nonfinite) return;
    pooled_h_ = axis_h.pooled_size;
    runs_.reserve(static_cast<size_t>(pooled_h_) + static_cast<size_t>(axis_w.pooled_size));
    for (int32_t p = 0; p < axis_h.pooled_size; ++p) runs_.push_back({axis_h.begin(p), axis_h.end(p)});
    for (int32_t q = 0; q < axis_w.pooled_size; ++q) runs_.push_back({axis_w.begin(q), axis_w.end(q)});
    window = {axis_h.begin(0), axis_h.end(axis_h.pooled_size - 1), axis_w.begin(0), axis_w.end(axis_w.pooled_size - 1)};
  }

  Runs bin(int64_t p, int64_t q) const {
    if (is_nonfinite) return {0, 0, 0, 0};
    const Run &rows = runs_[static_cast<size_t>(p)], &columns = runs_[static_cast<size_t>(pooled_h_ + q)];
    return {rows.begin, rows.end, columns.begin, columns.end};
  }

 private:
  struct Run {
    int32_t begin, end;
  };
  std::vector<Run> runs_;
  int64_t pooled_h_ = 0;
};

// As wide as what it is beside, so that vectors of both have as many lanes.
template <class C>
using Index = std::conditional_t<std::is_same_v<C, double>, int64_t, int32_t>;

// What is kept of the largest pixels of a bin, for each channel of a block.
template <class C, int64_t Width>
struct Largest {
  alignas(kCacheLine) C value[Width];
  alignas(kCacheLine) C direction[Width];
  alignas(kCacheLine) Index<C> index[Width];
};

enum class What { kValue, kIndex, kDirection };

// Takes Count pixels more into account, the first of them that of index `first`.
template <int64_t Width, int Count, class C>
inline void take(const C* const (&pixels)[Count], C* __restrict value) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    C largest = value[c];
    for (int k = 0; k < Count; ++k) largest = of_larger(pixels[k][c], largest, pixels[k][c], largest);
    value[c] = largest;
  }
}
template <int64_t Width, int Count, class C>
inline void take(const C* const (&pixels)[Count], Index<C> first, C* __restrict value, Index<C>* __restrict index) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    C largest = value[c];
    Index<C> at = index[c];
    for (int k = 0; k < Count; ++k) {
      at = of_larger(pixels[k][c], largest, static_cast<Index<C>>(first + k), at);
      largest = of_larger(pixels[k][c], largest, pixels[k][c], largest);
    }
    value[c] = largest, index[c] = at;
  }
}
template <int64_t Width, int Count, class C>
inline void take(const C* const (&pixels)[Count], const C* const (&directions)[Count], C* __restrict value,
                 C* __restrict direction) {
  HANDGRAD_SIMD
  for (int64_t c = 0; c < Width; ++c) {
    C largest = value[c], moved = direction[c];
    for (int k = 0; k < Count; ++k) {
      moved = of_larger(pixels[k][c], largest, directions[k][c], moved);
      largest = of_larger(pixels[k][c], largest, pixels[k][c], largest);
    }
    value[c] = largest, direction[c] = moved;
  }
}

// The pixels of a bin that is not empty, in their order: their largest values; or these and where they are, pixel (y,
// x) of a plane with rows of `columns` pixels, `first` of which are not in memory; or these and the direction's values
// there.
template <What Which, int64_t Width, class C>
[[gnu::always_inline]] inline void find_largest(const BlockPlane<const C>& plane, const BlockPlane<const C>& direction,
                                                const Runs& bin, int64_t first, int64_t columns,
                                                Largest<C, Width>& largest) {
  std::fill(largest.value, largest.value + Width, -std::numeric_limits<C>::infinity());
  const int64_t corner = bin.row_begin * columns + bin.column_begin - first;
  if (Which == What::kIndex) std::fill(largest.index, largest.index + Width, static_cast<Index<C>>(corner));
  if (Which == What::kDirection) {
    const C* from = direction.at(bin.row_begin, bin.column_begin);
    std::copy(from, from + Width, largest.direction);
  }
  for (int32_t y = bin.row_begin; y < bin.row_end; ++y) {
    by_fours(bin.column_end - bin.column_begin, [&](auto count, int64_t begin) {
      constexpr int Count = count.value;
      const int64_t x = bin.column_begin + begin;
      const C* pixels[Count];
      for (int k = 0; k < Count; ++k) pixels[k] = plane.at(y, x + k);
      if constexpr (Which == What::kValue) take<Width>(pixels, largest.value);
      if constexpr (Which == What::kIndex) {
        take<Width>(pixels, static_cast<Index<C>>(y * columns + x - first), largest.value, largest.index);
      }
      if constexpr (Which == What::kDirection) {
        const C* directions[Count];
        for (int k = 0; k < Count; ++k) directions[k] = direction.at(y, x + k);
        take<Width>(pixels, directions, largest.value, largest.direction);
      }
    });
  }
}

// The tensors of a call; what there is none of has no data. `boxes` are in BoxesByImage.
template <class C>
struct Operands {
  StoredView<const C, 4> input;        // [N, C, H, W]
  StoredView<const C, 4> grad_output;  // [K, C, pooled_h, pooled_w]
  StoredView<const C, 4> v_input;      // [N, C, H, W], the direction grad_grad_input
  StoredView<C, 4> output;             // [K, C, pooled_h, pooled_w]; in the double backward, its change
  StoredView<C, 4> grad_input;         // [N, C, H, W]
};

template <What Which, class C, int64_t Width>
class Pass {
 public:
  Pass(const RoiGeometry& geometry, const Operands<C>& operands)
      : geometry_(geometry),
        operands_(operands),
        tile_(geometry.pooled_h, geometry.pooled_w),
        transposer_(std::max<int64_t>(geometry.width, tile_.bins())) {}

  void begin(const ChannelBlock& block, const PixelWindow& window) {
    block_ = block, window_ = window;
    plane_ = load_block<Width>(operands_.input, block, window, input_, transposer_);
    if constexpr (Which == What::kDirection) {
      v_plane_ = load_block<Width>(operands_.v_input, block, window, v_input_, transposer_);
    }
    if constexpr (Which == What::kIndex) {
      grad_plane_ =
          clear_block<Width>(operands_.grad_input, geometry_.height, geometry_.width, block, window, grad_input_);
      // A gradient is dense: its rows follow each other.
      columns_ = grad_plane_.row_stride / grad_plane_.pixel_stride;
      first_ = grad_plane_.row_begin * columns_ + grad_plane_.column_begin;
    }
  }

  void box(int64_t k, const BoxRuns& runs) {
    tile_.for_each([&](int64_t p, int64_t count) {
      if constexpr (Which == What::kIndex) tile_.load(operands_.grad_output, k, block_, p, count, transposer_);
      for (int64_t y = 0; y < count; ++y) {
        for (int64_t x = 0; x < geometry_.pooled_w; ++x) bin(runs, runs.bin(p + y, x), tile_.at(y, x));
      }
      if constexpr (Which != What::kIndex) tile_.store(operands_.output, k, block_, p, count, transposer_);
    });
  }

  void end() {
    if constexpr (Which == What::kIndex) {
      store_block<Width>(grad_plane_, operands_.grad_input, geometry_.height, geometry_.width, block_, window_,
                         transposer_);
    }
  }

 private:
  void bin(const BoxRuns& runs, const Runs& bin, C* numbers) {
    if (bin.is_empty()) {
      const C value = runs.is_nonfinite ? std::numeric_limits<C>::quiet_NaN() : C(0);
      if (Which != What::kIndex) std::fill(numbers, numbers + Width, value);
      return;
    }
    find_largest<Which, Width>(plane_, v_plane_, bin, first_, columns_, largest_);
    if constexpr (Which == What::kValue) std::copy(largest_.value, largest_.value + Width, numbers);
    if constexpr (Which == What::kDirection) std::copy(largest_.direction, largest_.direction + Width, numbers);
    if constexpr (Which == What::kIndex) {
      const int64_t stride = grad_plane_.pixel_stride;
      for (int64_t c = 0; c < block_.count; ++c) grad_plane_.data[largest_.index[c] * stride + c] += numbers[c];
    }
  }

  const RoiGeometry& geometry_;
  const Operands<C>& operands_;
  BinTile<C, Width> tile_;
  Transposer<Width, C> transposer_;
  ScratchVector<C> input_, v_input_, grad_input_;
  Largest<C, Width> largest_;
  ChannelBlock block_{};
  PixelWindow window_;
  BlockPlane<const C> plane_, v_plane_;
  BlockPlane<C> grad_plane_;
  // Of the gradient's plane: pixels in a row, and the index of the first in memory.
  int64_t columns_ = 0, first_ = 0;
};

template <What Which, class C>
void run(const RoiGeometry& geometry, const Tensor& boxes, const Operands<C>& operands) {
  const View<const C, 2> table = view<C, 2>(boxes);
  const int64_t bins = int64_t{geometry.pooled_h} + geometry.pooled_w;
  const BoxesByImage<BoxRuns> runs(kOp, geometry, table, 8 * bins, [&](int64_t k, BoxRuns& box) {
    const double scale = geometry.spatial_scale;
    box.build(axis_of(*table.at(k, 2), *table.at(k, 4), scale, geometry.pooled_h, geometry.height),
              axis_of(*table.at(k, 1), *table.at(k, 3), scale, geometry.pooled_w, geometry.width));
  });
  dispatch_width(geometry.channels, [&](auto width) {
    constexpr int64_t Width = width.value;
    for_each_box<Width>(geometry, runs, [&] { return Pass<Which, C, Width>(geometry, operands); });
  });
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor roi_pool_cpu(const Tensor& input,  // [N, C, H, W]
                    const Tensor& boxes,  // [K, 5]
                    int64_t pooled_h, int64_t pooled_w, double spatial_scale) {
  const RoiGeometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale);
  const Tensor output = empty_output(geometry, input);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.output = mutable_stored_view<C, 4>(output);
    run<What::kValue>(geometry, boxes, operands);
  });
  return output;
}

Tensor roi_pool_backward_cpu(const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                             const Tensor& input,        // [N, C, H, W]
                             const Tensor& boxes,        // [K, 5]
                             int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                             const std::vector<bool>& output_mask) {
  const RoiGeometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale);
  check_grad_output(geometry, grad_output, input);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (!wanted) return grad_input;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.grad_output = stored_view<C, 4>(grad_output);
    operands.grad_input = mutable_stored_view<C, 4>(grad_input);
    run<What::kIndex>(geometry, boxes, operands);
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> roi_pool_double_backward_cpu(const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
                                                        const Tensor& grad_output,  // [K, C, pooled_h, pooled_w]
                                                        const Tensor& input,        // [N, C, H, W]
                                                        const Tensor& boxes,        // [K, 5]
                                                        int64_t pooled_h, int64_t pooled_w, double spatial_scale,
                                                        const std::vector<bool>& output_mask) {
  const RoiGeometry geometry = check_arguments(input, boxes, pooled_h, pooled_w, spatial_scale);
  check_grad_output(geometry, grad_output, input);
  const RoiDoubleBackward results(geometry, grad_grad_input, input, output_mask);
  if (!results.wants_output) return {results.grad_grad_output, results.grad_input};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    Operands<C> operands;
    operands.input = stored_view<C, 4>(input);
    operands.v_input = stored_view<C, 4>(grad_grad_input);
    operands.output = mutable_stored_view<C, 4>(results.grad_grad_output);
    run<What::kDirection>(geometry, boxes, operands);
  });
  return {results.grad_grad_output, results.grad_input};
}

}  // namespace
}  // namespace handgrad::roi_pool

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::roi_pool::roi_pool_cpu>(library, "roi_pool");
  handgrad::implement<handgrad::roi_pool::roi_pool_backward_cpu>(library, "_roi_pool_backward");
  handgrad::implement<handgrad::roi_pool::roi_pool_double_backward_cpu>(library, "_roi_pool_double_backward");
}
