// How the work of a deformable convolution is cut on the CPU, and its small tensors tile by tile.
//
// Each image is cut into bands of output positions, and a band into tiles. A lane takes bands one after the other;
// lanes are spread over threads. How the work is cut depends on sizes only.
//
// In order of appearance: Plan; Band and Tile; the loop over lanes; runs of positions; Planes, what a tile reads and
// writes position by position; Segment, channels that share their offsets and their weight.
#pragma once

#include "cpu/channel_blocks.h"
#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "deform_conv2d_host.h"
#include "math/stored.h"

namespace handgrad::deform_conv2d {

// Bands to have for the threads to share, and the fewest positions worth one.
inline constexpr int64_t kBands = 16, kSmallestBand = 128;
// Bytes of one tile's columns, within its bounds on positions: fewer, and matmul spends its time packing the weight.
inline constexpr int64_t kColumnBytes = 640 * 1024, kSmallestTile = 96, kLargestTile = 1024;
// Bytes of all private copies of the weight's gradient, and how many there are at least.
inline constexpr int64_t kWeightCopiesBytes = int64_t{64} << 20, kSmallestLanes = 4;

struct Plan {
  // Bands of an image, and of all; positions of a tile; numbers of a column.
  int64_t bands_per_image, bands, lanes, tile, width;

  Plan(const Geometry& geometry, int64_t element_bytes) {
    width = geometry.taps * geometry.group_channels;
    const int64_t fitting = kColumnBytes / (width * element_bytes) / 16 * 16;
    tile = std::min(kLargestTile, std::max(kSmallestTile, fitting));
    bands_per_image = 1;
    if (geometry.batch > 0 && geometry.batch < kBands) {
      const int64_t most = std::max<int64_t>(1, geometry.positions / kSmallestBand);
      bands_per_image = std::min(most, (kBands + geometry.batch - 1) / geometry.batch);
    }
    // Bands of whole tiles, tiles of equal size.
    const int64_t band = (geometry.positions + bands_per_image - 1) / bands_per_image;
    const int64_t tiles = (band + tile - 1) / tile;
    tile = (band + tiles - 1) / tiles;
    bands = geometry.batch * bands_per_image;
    const int64_t weight_bytes = geometry.out_channels * width * element_bytes;
    lanes = std::min({bands, kBands, std::max(kSmallestLanes, kWeightCopiesBytes / weight_bytes)});
  }
};

// Output positions [begin, end) of image n.
struct Band {
  int64_t n, begin, end;

  Band(const Plan& plan, const Geometry& geometry, int64_t index) {
    n = index / plan.bands_per_image;
    const int64_t band = index % plan.bands_per_image;
    begin = geometry.positions * band / plan.bands_per_image;
    end = geometry.positions * (band + 1) / plan.bands_per_image;
  }
};

// Output positions [begin, begin + count) of image n.
struct Tile {
  int64_t n, begin, count;
};

template <class Body>
void for_each_tile(const Plan& plan, const Band& band, const Body& body) {
  for (int64_t begin = band.begin; begin < band.end; begin += plan.tile) {
    body(Tile{band.n, begin, std::min(plan.tile, band.end - begin)});
  }
}

// work(lane, first band, last band) for all lanes, with matmul on the lane's thread. Always through torch's
// parallel_for, and never for a single item: that one would run outside any parallel region, where a matmul that is not
// MKL's takes all threads there are.
template <class Work>
void for_each_lane(const Plan& plan, const Work& work) {
  torch::stable::parallel_for(0, std::max<int64_t>(2, plan.lanes), 1, [&](int64_t begin, int64_t end) {
    const OneThreadMatmul one_thread;
    for (int64_t lane = begin; lane < std::min(end, plan.lanes); ++lane) {
      work(lane, plan.bands * lane / plan.lanes, plan.bands * (lane + 1) / plan.lanes);
    }
  });
}

// ---- positions ------------------------------------------------------------------------------------------------------

// step(first element, index in the tile, count) for the rows of a tile in channel c of `tensor`, [N, *, out_h, out_w].
template <class P, class Step>
void for_each_run(const Geometry& geometry, const StoredView<P, 4>& tensor, const Tile& tile, int64_t c,
                  const Step& step) {
  const bool one_run = tensor.strides[2] == geometry.out_w * tensor.strides[3];
  for (int64_t done = 0; done < tile.count;) {
    const int64_t y = (tile.begin + done) / geometry.out_w, x = (tile.begin + done) % geometry.out_w;
    const int64_t run = one_run ? tile.count : std::min(geometry.out_w - x, tile.count - done);
    step(tensor.at(tile.n, c, y, x), done, run);
    done += run;
  }
}

template <class C>
void load_plane(const Geometry& geometry, const StoredView<const C, 4>& from, const Tile& tile, int64_t c, C* to) {
  for_each_run(geometry, from, tile, c, [&](const Stored<const C>& first, int64_t done, int64_t run) {
    load_run(first, from.strides[3], run, to + done);
  });
}

template <class C>
void store_plane(const Geometry& geometry, const C* from, const StoredView<C, 4>& to, const Tile& tile, int64_t c) {
  for_each_run(geometry, to, tile, c, [&](const Stored<C>& first, int64_t done, int64_t run) {
    store_run(from + done, run, first, to.strides[3]);
  });
}

// Adds to the offsets of one tap its sampling points without them; either may be null.
template <class C>
void add_base(const Geometry& geometry, int64_t tap, const Tile& tile, C* y, C* x) {
  int64_t row = tile.begin / geometry.out_w, column = tile.begin % geometry.out_w;
  for (int64_t i = 0; i < tile.count; ++i) {
    if (y) y[i] += static_cast<C>(geometry.base_y(tap, row));
    if (x) x[i] += static_cast<C>(geometry.base_x(tap, column));
    if (++column == geometry.out_w) {
      column = 0;
      ++row;
    }
  }
}

// The numbers of a tile that come in planes of positions: one plane after the other, `pitch` apart.
template <class C>
class Planes {
 public:
  Planes(int64_t count, int64_t pitch) : count_(count), pitch_(pitch), memory_(static_cast<size_t>(count * pitch)) {}

  C* plane(int64_t index) { return memory_.data() + index * pitch_; }
  C& at(int64_t index, int64_t i) { return memory_[static_cast<size_t>(index * pitch_ + i)]; }
  void fill(C value) { std::fill(memory_.begin(), memory_.end(), value); }

  // All planes, channel by channel of `from`.
  void load(const Geometry& geometry, const StoredView<const C, 4>& from, const Tile& tile) {
    for (int64_t k = 0; k < count_; ++k) load_plane(geometry, from, tile, k, plane(k));
  }
  void store(const Geometry& geometry, const StoredView<C, 4>& to, const Tile& tile) {
    for (int64_t k = 0; k < count_; ++k) store_plane(geometry, plane(k), to, tile, k);
  }

 private:
  int64_t count_, pitch_;
  ScratchVector<C> memory_;
};

// Offsets of one tile, one plane for each offset group and tap; with the taps' own points added, sampling points.
template <class C>
void load_offsets(const Geometry& geometry, const StoredView<const C, 4>& offset, const Tile& tile, bool add_points,
                  Planes<C>& y, Planes<C>& x) {
  for (int64_t plane = 0; plane < geometry.offset_groups * geometry.taps; ++plane) {
    load_plane(geometry, offset, tile, 2 * plane, y.plane(plane));
    load_plane(geometry, offset, tile, 2 * plane + 1, x.plane(plane));
    if (add_points) add_base(geometry, plane % geometry.taps, tile, y.plane(plane), x.plane(plane));
  }
}

template <class C>
void store_offsets(const Geometry& geometry, Planes<C>& y, Planes<C>& x, const StoredView<C, 4>& to, const Tile& tile) {
  for (int64_t plane = 0; plane < geometry.offset_groups * geometry.taps; ++plane) {
    store_plane(geometry, y.plane(plane), to, tile, 2 * plane);
    store_plane(geometry, x.plane(plane), to, tile, 2 * plane + 1);
  }
}

// Adds a number to each of a channel's positions and stores them.
template <class C>
void store_with_bias(const Geometry& geometry, C* row, C bias, const StoredView<C, 4>& to, const Tile& tile,
                     int64_t c) {
  HANDGRAD_SIMD
  for (int64_t i = 0; i < tile.count; ++i) row[i] += bias;
  store_plane(geometry, row, to, tile, c);
}

// ---- channels -------------------------------------------------------------------------------------------------------

// Neighbouring channels with one group of the convolution and one of the offsets.
struct Segment {
  int64_t channel, count, offset_group;
};

inline std::vector<Segment> segments_of(const Geometry& geometry, int64_t group) {
  std::vector<Segment> segments;
  const int64_t end = (group + 1) * geometry.group_channels;
  for (int64_t c = group * geometry.group_channels; c < end;) {
    const int64_t offset_group = c / geometry.offset_channels;
    const int64_t next = std::min(end, (offset_group + 1) * geometry.offset_channels);
    segments.push_back({c, next - c, offset_group});
    c = next;
  }
  return segments;
}

// The weight as a matrix of each group, (output channel) x (tap, channel): the order of the columns.
template <class C>
ScratchVector<C> arranged_weight(
    const Geometry& geometry, const StoredView<const C, 4>& weight) {  // [out_channels, C / groups, kernel_h, kernel_w]
  ScratchVector<C> to(static_cast<size_t>(geometry.out_channels * geometry.taps * geometry.group_channels));
  C* row = to.data();
  for (int64_t o = 0; o < geometry.out_channels; ++o) {
    for (int64_t t = 0; t < geometry.taps; ++t, row += geometry.group_channels) {
      load_run(weight.at(o, 0, t / geometry.kernel_w, t % geometry.kernel_w), weight.strides[1],
               geometry.group_channels, row);
    }
  }
  return to;
}

}  // namespace handgrad::deform_conv2d
