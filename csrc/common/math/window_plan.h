// How the work of a filter over windows is cut into tiles, how much scratch memory a tile takes, and what it reads and
// writes.
#pragma once

#include "math/stored.h"
#include "math/windows.h"

namespace handgrad {

struct WindowPlan {
  WindowAxes axes;
  double sigma;
  // The results of a tile; the windows that they need, and the pixels that those need.
  WindowBuffer tile, inner, patch;
  int64_t channels, tiles[3], items;
  bool gradient;
  int32_t taps, images, averages, temporary[2];

  // The alignment of rows in scratch memory, and what each array has beyond its end.
  int32_t alignment, spare;

  // Tiles of at most so many results along each axis.
  WindowPlan(const WindowAxes& axes, double sigma, int64_t batch, int64_t channels, const int32_t (&most)[3],
             bool gradient, int32_t images, int32_t averages, int32_t alignment, int32_t spare)
      : axes(axes),
        sigma(sigma),
        channels(channels),
        items(batch * channels),
        gradient(gradient),
        taps(axes.axis[2].taps),
        images(images),
        averages(averages),
        alignment(alignment),
        spare(spare) {
    int32_t extent[3], reached[3], held[3];
    for (int a = 0; a < 3; ++a) {
      const WindowAxis& axis = axes.axis[a];
      const int32_t results = gradient ? axis.size : axis.windows;
      tiles[a] = (results + most[a] - 1) / most[a];
      extent[a] = static_cast<int32_t>((results + tiles[a] - 1) / tiles[a]);
      held[a] = extent[a] + (gradient ? axis.taps - 1 : 0);
      reached[a] = held[a] + axis.taps - 1;
      items *= tiles[a];
    }
    tile = WindowBuffer::of(extent[0], extent[1], extent[2], alignment);
    inner = WindowBuffer::of(held[0], held[1], held[2], alignment);
    patch = WindowBuffer::of(reached[0], reached[1], reached[2], alignment);
    temporary[0] = reached[0] * reached[1] * inner.pitch;
    temporary[1] = axes.count == 3 ? reached[0] * held[1] * inner.pitch : 0;
  }

  int64_t tiles_of_plane() const { return tiles[0] * tiles[1] * tiles[2]; }
  // Numbers of scratch memory, but for the weights.
  HANDGRAD_MATH int64_t scratch() const {
    return int64_t{images + 1} * (patch.count() + spare) + temporary[0] + temporary[1] + 2 * spare +
           int64_t{averages} * (inner.count() + spare) + (gradient ? 2 * (tile.count() + spare) : 0);
  }
};

template <class C>
struct WindowOperands {
  StoredView<const C, 5> input, target, grad_grad_input, grad_grad_target, grad_output;
  StoredView<C, 5> output, grad_input, grad_target;
  C scale;  // of grad_output
  // Of images of half the size, if there are any: gradients, of which each pixel here takes a share.
  StoredView<const C, 5> coarse[2];
  int32_t coarse_size[3];
  C share;
};

// Where the mean score of each plane goes, one every so many numbers; the sum over a plane's windows times `scale`.
template <class C>
struct WindowMeans {
  C* first = nullptr;
  int64_t step = 1;
  double scale = 1;

  HANDGRAD_MATH explicit operator bool() const { return first != nullptr; }
};

}  // namespace handgrad
