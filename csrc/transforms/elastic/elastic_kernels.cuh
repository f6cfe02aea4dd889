// The kernels of elastic's derivatives on CUDA devices; the others are cuda/image_sample.cuh's.
//
// A displacement has no inverse that says which outputs a pixel is read by. So tiles of the output say first which
// pixels they read, as a box around these, and rows of tiles likewise; a pixel then asks the outputs of the tiles whose
// boxes hold it, in their order. No atomic addition, and the same order in every run.
//
// In order of appearance: boxes; the gradient of the image; that of the displacement.
#pragma once

#include "cuda/image_sample.cuh"
#include "elastic_host.h"

namespace handgrad::elastic {

// Pixels of a tile's side.
inline constexpr int kTile = 8;

// ---- boxes ----------------------------------------------------------------------------------------------------------

struct Box {
  int32_t top, bottom, left, right;

  HANDGRAD_MATH bool holds(int64_t row, int64_t column) const {
    return row >= top && row < bottom && column >= left && column < right;
  }
  HANDGRAD_MATH void join(const Box& other) {
    top = other.top < top ? other.top : top, bottom = other.bottom > bottom ? other.bottom : bottom;
    left = other.left < left ? other.left : left, right = other.right > right ? other.right : right;
  }
};
HANDGRAD_MATH Box empty_box() { return {INT32_MAX, INT32_MIN, INT32_MAX, INT32_MIN}; }

// Of the output of an image.
struct Tiles {
  int64_t down, across;

  explicit Tiles(const ImageFrame& frame)
      : down((frame.height + kTile - 1) / kTile), across((frame.width + kTile - 1) / kTile) {}
};

// Boxes of the tiles of all images, and after them those of their rows.
struct Boxes {
  Tiles tiles;
  int32_t* data;

  HANDGRAD_MATH int64_t of_tile(int64_t n, int64_t row, int64_t column) const {
    return (n * tiles.down + row) * tiles.across + column;
  }
  HANDGRAD_MATH int64_t of_row(int64_t images, int64_t n, int64_t row) const {
    return images * tiles.down * tiles.across + n * tiles.down + row;
  }
  // Whole vectors: one instruction each.
  __device__ Box read(int64_t index) const {
    const Vector<int32_t, 4> box = load(reinterpret_cast<const Vector<int32_t, 4>*>(data) + index);
    return {box.lane[0], box.lane[1], box.lane[2], box.lane[3]};
  }
  __device__ void write(int64_t index, const Box& box) const {
    store(reinterpret_cast<Vector<int32_t, 4>*>(data) + index, {{box.top, box.bottom, box.left, box.right}});
  }
};

// A thread has a tile.
template <class C>
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks)
    tile_boxes_kernel(ImageFrame frame, Places<C> places, Boxes boxes) {
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  const int64_t index = int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x;
  if (index >= frame.batch * boxes.tiles.down * boxes.tiles.across) return;
  const ImagePixel tile(boxes.tiles.down, boxes.tiles.across, index);
  const ImagePlaces<C> of_image = places.template of_image<C>(tile.n);
  const int64_t top = tile.i * kTile, left = tile.j * kTile;
  const int64_t bottom = top + kTile < frame.height ? top + kTile : frame.height;
  const int64_t right = left + kTile < frame.width ? left + kTile : frame.width;
  Box box = empty_box();
#pragma unroll 1
  for (int64_t i = top; i < bottom; ++i) {
#pragma unroll 1
    for (int64_t j = left; j < right; ++j) {
      const ImageSample<C> sample(frame, of_image.point(i, j));
      if (!sample.corners) continue;
      const int32_t row = static_cast<int32_t>(sample.row), column = static_cast<int32_t>(sample.column);
      box.join({row, row + 2, column, column + 2});
    }
  }
  boxes.write(index, box);
}

// A thread has a row of tiles.
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks) row_boxes_kernel(int64_t images, Boxes boxes) {
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  const int64_t index = int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x;
  if (index >= images * boxes.tiles.down) return;
  const int64_t n = index / boxes.tiles.down, row = index - n * boxes.tiles.down;
  Box box = empty_box();
#pragma unroll 4
  for (int64_t column = 0; column < boxes.tiles.across; ++column) box.join(boxes.read(boxes.of_tile(n, row, column)));
  boxes.write(boxes.of_row(images, n, row), box);
}

// ---- the gradient of the image --------------------------------------------------------------------------------------

// A pixel of the image: what the outputs that are read there give back to it, in the order of tiles, and of pixels in a
// tile.
template <class T, class N>
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks)
    grad_image_kernel(ImageFrame frame, Places<Plain<N>> places, Boxes boxes, Surroundings around,
                      View<const T, 4> grad_output,  // [N, C, H, W]
                      View<T, 4> grad_image) {       // [N, C, H, W]
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  const int64_t index = int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x;
  if (index >= frame.batch * frame.height * frame.width) return;
  const ImagePixel pixel(frame.height, frame.width, index);
  const ImagePlaces<N> of_image = places.template of_image<N>(pixel.n);
  double totals[kChannels] = {};
#pragma unroll 1
  for (int64_t down = 0; down < boxes.tiles.down; ++down) {
    if (!boxes.read(boxes.of_row(frame.batch, pixel.n, down)).holds(pixel.i, pixel.j)) continue;
#pragma unroll 1
    for (int64_t across = 0; across < boxes.tiles.across; ++across) {
      if (!boxes.read(boxes.of_tile(pixel.n, down, across)).holds(pixel.i, pixel.j)) continue;
#pragma unroll 1
      for (int k = 0; k < kTile * kTile; ++k) {
        const int64_t i = down * kTile + k / kTile, j = across * kTile + k % kTile;
        if (i >= frame.height || j >= frame.width) continue;
        const ImageSample<N> sample(frame, of_image.point(i, j));
        add_given(frame, around, sample, pixel.i, pixel.j, grad_output, pixel.n, i, j, totals);
      }
    }
  }
  store_given(around, totals, pixel, grad_image);
}

// ---- the gradient of the displacement -------------------------------------------------------------------------------

// A pixel of the output; all but the first launch add to what the channels before have given.
template <class T, class N>
__global__ void __launch_bounds__(kSlopeThreads, kMinBlocks)
    grad_displacement_kernel(ImageFrame frame, Places<Plain<N>> places, Surroundings around,
                             View<const T, 4> image,                 // [N, C, H, W]
                             View<const T, 4> direction,             // [N, C, H, W]
                             View<const T, 4> grad_output,           // [N, C, H, W]
                             View<Plain<N>, 4> grad_displacement) {  // [N, H, W, 2]
  HANDGRAD_LAUNCH_BOUNDS(kSlopeThreads);
  using C = Plain<N>;
  const int64_t index = int64_t{blockIdx.x} * kSlopeThreads + threadIdx.x;
  if (index >= frame.batch * frame.height * frame.width) return;
  const ImagePixel pixel(frame.height, frame.width, index);
  const ImageSample<N> sample(frame, places.template of_image<N>(pixel.n).point(pixel.i, pixel.j));
  Point<N> grad{N(0), N(0)};
  if (sample.corners && frame.bilinear) {
    add_of_point(frame, around, sample, image, direction, grad_output, pixel.n, pixel.i, pixel.j, grad);
  }
  C* to = grad_displacement.at(pixel.n, pixel.i, pixel.j, 0);
  C* below = grad_displacement.at(pixel.n, pixel.i, pixel.j, 1);
  const bool adds = around.first > 0;
  store(to, wanted_of(grad.x) * places.across.half + (adds ? load(to) : C(0)));
  store(below, wanted_of(grad.y) * places.down.half + (adds ? load(below) : C(0)));
}

}  // namespace handgrad::elastic
