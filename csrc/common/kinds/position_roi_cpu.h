// The same on the CPU.
//
// A bin looks at the same few pixels of each of its channels. So work is cut into bins: for one bin of all boxes of an
// image, a list of pixels and weights, and then some of its channels pass over it, a few planes at a time. A plane is
// read where it is, or brought into scratch memory row by row; that of a gradient is summed there by one thread, in the
// order of boxes.
//
// In order of appearance: PixelWeight and BinList, what one bin of all boxes looks at; gather_planes and
// scatter_planes; PlaneReader; PositionWalk, the work of one thread; PositionRoisOnCpu.
#pragma once

#include <limits>

#include "cpu/box_taps.h"
#include "kinds/position_roi.h"

namespace handgrad {
namespace position_roi {

// Planes that share a walk over a list, and channels of a bin that share its making.
inline constexpr int64_t kPlanes = 4, kShared = 16;

template <class C>
struct PixelWeight {
  // From the plane's first pixel.
  int64_t offset;
  C weight;
};

// Of each box of an image, in their order, the pixels of one bin.
template <class C>
struct BinList {
  struct OfBox {
    int64_t k, end;
    bool is_nonfinite;
  };
  std::vector<PixelWeight<C>> pixels;
  std::vector<OfBox> boxes;

  void build(const BoxesByImage<BoxTaps<C>>& taps, int64_t n, int64_t p, int64_t q, int64_t row_stride) {
    pixels.clear(), boxes.clear();
    taps.for_each(n, [&](int64_t k, const BoxTaps<C>& of_box) {
      const Taps<C> rows = of_box.rows(p), columns = of_box.columns(q);
      for (int64_t r = 0; r < rows.count; ++r) {
        for (int64_t c = 0; c < columns.count; ++c) {
          pixels.push_back(
              {rows.data[r].pixel * row_stride + columns.data[c].pixel, rows.data[r].weight * columns.data[c].weight});
        }
      }
      boxes.push_back({k, static_cast<int64_t>(pixels.size()), of_box.is_nonfinite});
    });
  }
};

// results[plane][box] of Planes planes, `apart` from each other.
template <int Planes, class C>
void gather_planes(const BinList<C>& list, const C* planes, int64_t apart, C* results, int64_t pitch) {
  int64_t i = 0;
  for (size_t b = 0; b < list.boxes.size(); ++b) {
    const auto& box = list.boxes[b];
    C sums[Planes];
    for (int j = 0; j < Planes; ++j) sums[j] = box.is_nonfinite ? std::numeric_limits<C>::quiet_NaN() : C(0);
    for (; i < box.end; ++i) {
      const PixelWeight<C> pixel = list.pixels[static_cast<size_t>(i)];
      for (int j = 0; j < Planes; ++j) sums[j] += pixel.weight * planes[j * apart + pixel.offset];
    }
    for (int j = 0; j < Planes; ++j) results[j * pitch + static_cast<int64_t>(b)] = sums[j];
  }
}

// The transpose: adds to the planes.
template <int Planes, class C>
void scatter_planes(const BinList<C>& list, const C* grads, int64_t pitch, C* planes, int64_t apart) {
  int64_t i = 0;
  for (size_t b = 0; b < list.boxes.size(); ++b) {
    C grad[Planes];
    for (int j = 0; j < Planes; ++j) grad[j] = grads[j * pitch + static_cast<int64_t>(b)];
    for (; i < list.boxes[b].end; ++i) {
      const PixelWeight<C> pixel = list.pixels[static_cast<size_t>(i)];
      for (int j = 0; j < Planes; ++j) planes[j * apart + pixel.offset] += pixel.weight * grad[j];
    }
  }
}

// Calls body with `planes`, at most kPlanes, as a constant.
template <class Body>
void dispatch_planes(int64_t planes, const Body& body) {
  switch (planes) {
    case 1: body(std::integral_constant<int, 1>()); break;
    case 2: body(std::integral_constant<int, 2>()); break;
    case 3: body(std::integral_constant<int, 3>()); break;
    default: body(std::integral_constant<int, 4>()); break;
  }
}

template <class C>
class PositionWalk {
 public:
  PositionWalk(const PositionGeometry& geometry, const BoxesByImage<BoxTaps<C>>& taps, const PooledTensors& tensors)
      : geometry_(geometry), taps_(taps), is_backward_(tensors.from) {
    if (is_backward_) {
      image_ = mutable_stored_view<C, 4>(tensors.to);
      grads_ = stored_view<C, 4>(*tensors.from);
    } else {
      input_ = stored_view<C, 4>(tensors.input);
      output_ = mutable_stored_view<C, 4>(tensors.to);
    }
    reads_in_place_ = !is_backward_ && input_.first.is_computed_in() && input_.strides[3] == 1;
    pixels_ = int64_t{geometry.height} * geometry.width;
  }

  // Channels [first, first + count) of bin (p, q), of image n.
  void bin(int64_t n, int64_t p, int64_t q, int64_t first, int64_t count) {
    list_.build(taps_, n, p, q, reads_in_place_ ? input_.strides[2] : int64_t{geometry_.width});
    if (!is_backward_ && !reads_in_place_) window_ = taps_.window(n);
    const int64_t boxes = static_cast<int64_t>(list_.boxes.size());
    numbers_.resize(static_cast<size_t>(kPlanes * boxes));
    for (int64_t c = first; c < first + count; c += kPlanes) {
      const int64_t planes = std::min(kPlanes, first + count - c);
      if (is_backward_) {
        backward(n, p, q, c, planes, boxes);
      } else {
        forward(n, p, q, c, planes, boxes);
      }
    }
  }

 private:
  // The input's channel of channel c of the output in bin (p, q).
  int64_t channel(int64_t c, int64_t p, int64_t q) const {
    return (c * geometry_.pooled_h + p) * geometry_.pooled_w + q;
  }

  void forward(int64_t n, int64_t p, int64_t q, int64_t c, int64_t planes, int64_t boxes) {
    const C* from = nullptr;
    int64_t apart = 0;
    if (boxes == 0) return;
    if (reads_in_place_) {
      from = input_.at(n, channel(c, p, q), 0, 0).in_place();
      apart = geometry_.bins() * input_.strides[1];
    } else {
      planes_.resize(static_cast<size_t>(kPlanes * pixels_));
      from = planes_.data(), apart = pixels_;
      for (int64_t j = 0; j < planes; ++j) {
        for (int64_t y = window_.row_begin; y < window_.row_end; ++y) {
          load_run(input_.at(n, channel(c + j, p, q), y, window_.column_begin), input_.strides[3], window_.columns(),
                   planes_.data() + j * pixels_ + y * geometry_.width + window_.column_begin);
        }
      }
    }
    dispatch_planes(planes,
                    [&](auto count) { gather_planes<count.value>(list_, from, apart, numbers_.data(), boxes); });
    dispatch_storage<C>(output_.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t j = 0; j < planes; ++j) {
        for (int64_t b = 0; b < boxes; ++b) {
          const auto to = output_.at(list_.boxes[static_cast<size_t>(b)].k, c + j, p, q);
          *to.template as<T>() = narrow<T>(numbers_[static_cast<size_t>(j * boxes + b)]);
        }
      }
    });
  }

  void backward(int64_t n, int64_t p, int64_t q, int64_t c, int64_t planes, int64_t boxes) {
    dispatch_storage<C>(grads_.first.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (int64_t j = 0; j < planes; ++j) {
        for (int64_t b = 0; b < boxes; ++b) {
          const auto from = grads_.at(list_.boxes[static_cast<size_t>(b)].k, c + j, p, q);
          numbers_[static_cast<size_t>(j * boxes + b)] = widen(*from.template as<T>());
        }
      }
    });
    planes_.assign(static_cast<size_t>(planes * pixels_), C(0));
    dispatch_planes(planes, [&](auto count) {
      scatter_planes<count.value>(list_, numbers_.data(), boxes, planes_.data(), pixels_);
    });
    const bool is_one_run = image_.strides[2] == geometry_.width * image_.strides[3];
    const int64_t run = is_one_run ? pixels_ : geometry_.width;
    for (int64_t j = 0; j < planes; ++j) {
      const auto to = image_.at(n, channel(c + j, p, q), 0, 0);
      for (int64_t i = 0; i < pixels_; i += run) {
        store_run(planes_.data() + j * pixels_ + i, run, to + i / geometry_.width * image_.strides[2],
                  image_.strides[3]);
      }
    }
  }

  const PositionGeometry& geometry_;
  const BoxesByImage<BoxTaps<C>>& taps_;
  const bool is_backward_;
  bool reads_in_place_;
  int64_t pixels_;
  // What boxes touch of the image.
  PixelWindow window_;
  StoredView<const C, 4> input_, grads_;
  StoredView<C, 4> output_, image_;
  BinList<C> list_;
  ScratchVector<C> planes_, numbers_;
};

}  // namespace position_roi

struct PositionRoisOnCpu {
  template <class Op>
  static void run(const PositionGeometry& geometry, const position_roi::PooledTensors& tensors) {
    dispatch_compute(Op::name, tensors.input.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      using namespace position_roi;
      const View<const C, 2> table = view<C, 2>(tensors.boxes);
      const int64_t bins = int64_t{geometry.pooled_h} + geometry.pooled_w;
      const BoxesByImage<BoxTaps<C>> taps(Op::name, geometry, table, 64 * bins, [&](int64_t k, BoxTaps<C>& of_box) {
        of_box.build(Op::axis(*table.at(k, 2), *table.at(k, 4), geometry, geometry.pooled_h, geometry.height),
                     Op::axis(*table.at(k, 1), *table.at(k, 3), geometry, geometry.pooled_w, geometry.width));
      });
      // Images last, since the work may all be on one of them.
      const int64_t chunks = (geometry.output_channels + kShared - 1) / kShared;
      const int64_t pixels = int64_t{geometry.height} * geometry.width;
      parallel_for(geometry.bins() * chunks * geometry.batch, kShared * pixels, [&](int64_t begin, int64_t end) {
        PositionWalk<C> walk(geometry, taps, tensors);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = i % geometry.batch, chunk = i / geometry.batch % chunks;
          const int64_t bin = i / geometry.batch / chunks, first = chunk * kShared;
          walk.bin(n, bin / geometry.pooled_w, bin % geometry.pooled_w, first,
                   std::min<int64_t>(kShared, geometry.output_channels - first));
        }
      });
    });
  }
};

}  // namespace handgrad
