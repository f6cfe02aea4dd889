// A spatial pyramid pooling on the CPU.
//
// Some channels of an image are a thread's, as many as a vector has lanes, copied side by side: the input is read once
// for all levels, and a bin is a loop over pixels with a channel in each lane. Where the largest pixel of a bin is, is
// found again for the derivatives.
#include <algorithm>

#include "abi/registration.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "math/stored.h"
#include "spatial_pyramid_pool_2d_host.h"

namespace handgrad::spatial_pyramid_pool_2d {
namespace {

// Integers as wide as C, which comparisons of lanes give.
template <class C>
struct IndicesOf {
  typedef std::conditional_t<sizeof(C) == 8, int64_t, int32_t> type __attribute__((vector_size(kCacheLine)));
};
template <class C>
using Indices = typename IndicesOf<C>::type;

// Some channels of an image, side by side: [pixels][lanes].
template <class C>
class Planes {
 public:
  explicit Planes(const Geometry& geometry)
      : geometry_(geometry), data_(static_cast<size_t>(geometry.height * geometry.width * kLanes<C>)) {}

  void clear() { std::fill(data_.begin(), data_.end(), C(0)); }
  C* pixel(int64_t y, int64_t x) { return data_.data() + (y * geometry_.width + x) * kLanes<C>; }

  void load(const StoredView<const C, 4>& view, int64_t n, int64_t channel, int64_t channels) {
    dispatch_storage<C>(view.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t y = 0; y < geometry_.height; ++y) {
        const T* const row = view.at(n, channel, y, 0).template as<T>();
        for (int64_t x = 0; x < geometry_.width; ++x) {
          const T* const from = row + x * view.strides[3];
          C* const to = pixel(y, x);
          for (int64_t c = 0; c < channels; ++c) to[c] = widen(from[c * view.strides[1]]);
        }
      }
    });
  }
  void store(const StoredView<C, 4>& view, int64_t n, int64_t channel, int64_t channels) {
    dispatch_storage<C>(view.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t y = 0; y < geometry_.height; ++y) {
        T* const row = view.at(n, channel, y, 0).template as<T>();
        for (int64_t x = 0; x < geometry_.width; ++x) {
          const C* const from = pixel(y, x);
          for (int64_t c = 0; c < channels; ++c) row[x * view.strides[3] + c * view.strides[1]] = narrow<T>(from[c]);
        }
      }
    });
  }

 private:
  const Geometry& geometry_;
  ScratchVector<C> data_;
};

// The pixels of a bin.
struct Bin {
  int64_t top, bottom, left, right;

  Bin(const Geometry& geometry, int64_t level, int64_t i, int64_t j)
      : top(bin_begin(i, level, geometry.height)),
        bottom(bin_end(i, level, geometry.height)),
        left(bin_begin(j, level, geometry.width)),
        right(bin_end(j, level, geometry.width)) {}
  int64_t area() const { return (bottom - top) * (right - left); }
};

// Lanes go to where they are wanted: a processor with narrower vectors has no register to return them in.
template <class C>
[[gnu::noinline]] void largest(Planes<C>& planes, const Bin& bin, Lanes<C>& result) {
  Lanes<C> most = load_lanes(planes.pixel(bin.top, bin.left));
  for (int64_t y = bin.top; y < bin.bottom; ++y) {
    const C* from = planes.pixel(y, bin.left);
    for (int64_t x = bin.left; x < bin.right; ++x, from += kLanes<C>) {
      const Lanes<C> pixel = load_lanes(from);
      most = (pixel > most) | (pixel != pixel) ? pixel : most;
    }
  }
  result = most;
}

// Where it is: the number of the pixel in its plane.
template <class C>
[[gnu::noinline]] void where_largest(Planes<C>& planes, const Bin& bin, int64_t width, Indices<C>& result) {
  Lanes<C> most = load_lanes(planes.pixel(bin.top, bin.left));
  using Index = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
  Indices<C> where = Indices<C>{} + static_cast<Index>(bin.top * width + bin.left);
  for (int64_t y = bin.top; y < bin.bottom; ++y) {
    const C* from = planes.pixel(y, bin.left);
    for (int64_t x = bin.left; x < bin.right; ++x, from += kLanes<C>) {
      const Lanes<C> pixel = load_lanes(from);
      const auto later = (pixel > most) | ((pixel != pixel) & (most == most));
      most = later ? pixel : most;
      where = later ? Indices<C>{} + static_cast<Index>(y * width + x) : where;
    }
  }
  result = where;
}

template <class C>
[[gnu::noinline]] void mean(Planes<C>& planes, const Bin& bin, Lanes<C>& result) {
  Lanes<C> sum{};
  for (int64_t y = bin.top; y < bin.bottom; ++y) {
    const C* from = planes.pixel(y, bin.left);
    for (int64_t x = bin.left; x < bin.right; ++x, from += kLanes<C>) sum += load_lanes(from);
  }
  result = sum / static_cast<C>(bin.area());
}

template <class C>
[[gnu::noinline]] void add_everywhere(Planes<C>& planes, const Bin& bin, const Lanes<C>& grad) {
  for (int64_t y = bin.top; y < bin.bottom; ++y) {
    C* to = planes.pixel(y, bin.left);
    for (int64_t x = bin.left; x < bin.right; ++x, to += kLanes<C>) store_lanes<C>(load_lanes(to) + grad, to);
  }
}

// body(n, channel, channels, scratch planes) for each group of channels; make_scratch() gives a thread its own.
template <class C, class MakeScratch, class Body>
void for_each_group(const Geometry& geometry, const MakeScratch& make_scratch, const Body& body) {
  const int64_t groups = (geometry.channels + kLanes<C> - 1) / kLanes<C>;
  const int64_t work = geometry.height * geometry.width * kLanes<C> * (geometry.level_count + 1);
  parallel_for(geometry.batch * groups, work, [&](int64_t begin, int64_t end) {
    auto scratch = make_scratch();
    for (int64_t index = begin; index < end; ++index) {
      const int64_t channel = index % groups * kLanes<C>;
      body(index / groups, channel, std::min(kLanes<C>, geometry.channels - channel), scratch);
    }
  });
}

// body(bin, first, step) for each bin: outputs of the lanes' channels are `step` apart, from `first` on.
template <class Body>
void for_each_bin(const Geometry& geometry, int64_t channel, const Body& body) {
  int64_t before = 0;
  for (int64_t l = 0; l < geometry.level_count; ++l) {
    const int64_t level = geometry.levels[l], step = level * level;
    for (int64_t k = 0; k < step; ++k) {
      body(Bin(geometry, level, k / level, k % level), before + channel * step + k, step);
    }
    before += geometry.channels * step;
  }
}

// The outputs. With `along`, what they change by: of a largest pixel its own direction.
template <class C>
void pool(const Geometry& geometry, bool average, const StoredView<const C, 4>& input,
          const StoredView<const C, 4>& along, const StoredView<C, 2>& output) {
  const auto scratch = [&] { return std::pair(Planes<C>(geometry), Planes<C>(geometry)); };
  for_each_group<C>(geometry, scratch, [&](int64_t n, int64_t channel, int64_t channels, auto& planes) {
    auto& [pixels, moved] = planes;
    const bool finds = along && !average;
    pixels.load(average && along ? along : input, n, channel, channels);
    if (finds) moved.load(along, n, channel, channels);
    for_each_bin(geometry, channel, [&](const Bin& bin, int64_t first, int64_t step) {
      C results[kLanes<C>];
      if (finds) {
        Indices<C> where;
        where_largest(pixels, bin, geometry.width, where);
        for (int64_t c = 0; c < channels; ++c) results[c] = moved.pixel(0, where[static_cast<size_t>(c)])[c];
      } else {
        Lanes<C> lanes;
        average ? mean(pixels, bin, lanes) : largest(pixels, bin, lanes);
        store_lanes<C>(lanes, results);
      }
      store_run(results, channels, output.at(n, first), step);
    });
  });
}

template <class C>
void differentiate(const Geometry& geometry, bool average, const StoredView<const C, 4>& input,
                   const StoredView<const C, 2>& grad, const StoredView<C, 4>& result) {
  const auto scratch = [&] { return std::pair(Planes<C>(geometry), Planes<C>(geometry)); };
  for_each_group<C>(geometry, scratch, [&](int64_t n, int64_t channel, int64_t channels, auto& planes) {
    auto& [pixels, grads] = planes;
    if (!average) pixels.load(input, n, channel, channels);
    grads.clear();
    for_each_bin(geometry, channel, [&](const Bin& bin, int64_t first, int64_t step) {
      C of_bin[kLanes<C>] = {};
      load_run(grad.at(n, first), step * grad.strides[1], channels, of_bin);
      if (average) {
        add_everywhere<C>(grads, bin, load_lanes(of_bin) / static_cast<C>(bin.area()));
      } else {
        Indices<C> where;
        where_largest(pixels, bin, geometry.width, where);
        for (int64_t c = 0; c < channels; ++c) grads.pixel(0, where[static_cast<size_t>(c)])[c] += of_bin[c];
      }
    });
    grads.store(result, n, channel, channels);
  });
}

// ---- host entries ---------------------------------------------------------------------------------------------------

Tensor spatial_pyramid_pool_2d_cpu(const Tensor& input,  // [N, C, H, W]
                                   const std::vector<int64_t>& levels, bool average) {
  const Geometry geometry = check_arguments(input, levels);
  const Tensor output = empty_output(geometry, input);
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    pool<C>(geometry, average, stored_view<C, 4>(input), {}, mutable_stored_view<C, 2>(output));
  });
  return output;
}

Tensor spatial_pyramid_pool_2d_backward_cpu(const Tensor& grad_output,  // [N, C * bins]
                                            const Tensor& input,        // [N, C, H, W]
                                            const std::vector<int64_t>& levels, bool average,
                                            const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, levels);
  check_grad_output(geometry, grad_output, input);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_input = empty_gradient(wanted, input);
  if (!wanted) return grad_input;
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    differentiate<C>(geometry, average, stored_view<C, 4>(input), stored_view<C, 2>(grad_output),
                     mutable_stored_view<C, 4>(grad_input));
  });
  return grad_input;
}

std::tuple<Tensor, Tensor> spatial_pyramid_pool_2d_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input,  // [N, C, H, W]
    const Tensor& grad_output,                     // [N, C * bins]
    const Tensor& input,                           // [N, C, H, W]
    const std::vector<int64_t>& levels, bool average, const std::vector<bool>& output_mask) {
  const Geometry geometry = check_arguments(input, levels);
  check_grad_output(geometry, grad_output, input);
  const DoubleBackward call(geometry, grad_grad_input, input, as_output_mask<2>(kOp, output_mask));
  if (!call.wants_grad_output) return {call.grad_grad_output, call.grad_input};
  dispatch_compute(kOp, input.scalar_type(), [&](auto tag) {
    using C = typename decltype(tag)::type;
    pool<C>(geometry, average, stored_view<C, 4>(input), stored_view<C, 4>(*grad_grad_input),
            mutable_stored_view<C, 2>(call.grad_grad_output));
  });
  return {call.grad_grad_output, call.grad_input};
}

}  // namespace
}  // namespace handgrad::spatial_pyramid_pool_2d

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::spatial_pyramid_pool_2d::spatial_pyramid_pool_2d_cpu>(library,
                                                                                      "spatial_pyramid_pool_2d");
  handgrad::implement<handgrad::spatial_pyramid_pool_2d::spatial_pyramid_pool_2d_backward_cpu>(
      library, "_spatial_pyramid_pool_2d_backward");
  handgrad::implement<handgrad::spatial_pyramid_pool_2d::spatial_pyramid_pool_2d_double_backward_cpu>(
      library, "_spatial_pyramid_pool_2d_double_backward");
}
