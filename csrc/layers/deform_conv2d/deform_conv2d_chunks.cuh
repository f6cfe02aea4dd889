// How the work of a deformable convolution is cut on CUDA devices.
//
// In order of appearance: Chunk, some output positions; for_each_chunk; Place, one position; Slice, some channels of an
// offset group, and Sliced, the launch of a kernel that takes slices.
#pragma once

#include <algorithm>

#include "cuda/launch.cuh"
#include "deform_conv2d_host.h"

namespace handgrad::deform_conv2d {

inline constexpr int kThreads = 256;
// Bytes of all matrices of a chunk together.
inline constexpr int64_t kChunkBytes = int64_t{64} << 20;
// Channels of a slice at least.
inline constexpr int64_t kLeastSlice = 8;

__device__ __forceinline__ int64_t thread_index() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

inline Blocks blocks_of(int64_t threads) { return blocks_for(threads, kThreads); }

// Output positions [begin, begin + count) of all images in a row. `image` and `position` are the first one's, and its
// place in that image. Every matrix of a chunk has fewer than 2^31 elements, so that 32 bits count them.
struct Chunk {
  int64_t begin, count, image, position;

  Chunk(const Geometry& geometry, int64_t begin, int64_t count)
      : begin(begin), count(count), image(begin / geometry.positions), position(begin % geometry.positions) {}
};

// body(chunk) for chunks that need `rows` numbers for each position.
template <class C, class Body>
void for_each_chunk(const Geometry& geometry, int64_t rows, const Body& body) {
  const int64_t positions = geometry.batch * geometry.positions, bytes = rows * static_cast<int64_t>(sizeof(C));
  // No matrix may have 2^31 elements, of whatever many channels and taps.
  const int64_t least = std::clamp<int64_t>(INT32_MAX / rows, 1, 1024);
  const int64_t most = std::max(least, kChunkBytes / bytes);
  for (int64_t begin = 0; begin < positions; begin += most) {
    body(Chunk(geometry, begin, std::min(most, positions - begin)));
  }
}

// An output position: its image, row and column. Divisions of 64 bits cost four times those of 32, and are left to
// images that need them.
struct Place {
  int64_t n, y, x;

  __device__ Place(const Geometry& geometry, const Chunk& chunk, uint32_t in_chunk) {
    const int64_t position = chunk.position + in_chunk;
    if (geometry.positions <= INT32_MAX) {
      const uint32_t positions = static_cast<uint32_t>(geometry.positions),
                     width = static_cast<uint32_t>(geometry.out_w);
      const uint32_t image = static_cast<uint32_t>(position) / positions;
      const uint32_t p = static_cast<uint32_t>(position) - image * positions, row = p / width;
      n = chunk.image + image, y = row, x = p - row * width;
    } else {
      // A chunk reaches into the next image at most.
      const int64_t next = position >= geometry.positions, p = position - next * geometry.positions;
      n = chunk.image + next, y = p / geometry.out_w, x = p % geometry.out_w;
    }
  }
};

// Which channels of its offset group a thread takes: groups are cut into slices where samples alone are too few threads
// to fill a device. Slices are outermost.
struct Slice {
  uint32_t sample;
  int64_t first, end;

  __device__ Slice(const Geometry& geometry, const Chunk& chunk, int64_t channels) {
    const uint32_t samples = static_cast<uint32_t>(geometry.offset_groups * geometry.taps * chunk.count);
    const uint32_t i = static_cast<uint32_t>(thread_index()), slice = i / samples;
    sample = i - slice * samples;
    first = slice * channels;
    end = first + channels < geometry.offset_channels ? first + channels : geometry.offset_channels;
  }
  // Threads beyond the last slice have none.
  __device__ bool is_empty() const { return first >= end; }
};

// The launch of a kernel whose threads take slices of an offset group's channels, and how many channels a slice has: so
// few that a device gets twice the threads that it can run at once, but no fewer than pay for finding a sample.
struct Sliced {
  int64_t channels;
  Blocks blocks;

  Sliced(const Geometry& geometry, const Chunk& chunk) {
    const int64_t samples = geometry.offset_groups * geometry.taps * chunk.count;
    const int64_t wanted = (2 * threads_at_once() + samples - 1) / samples;
    channels = std::max(kLeastSlice, (geometry.offset_channels + wanted - 1) / wanted);
    blocks = blocks_of(samples * ((geometry.offset_channels + channels - 1) / channels));
  }
};

}  // namespace handgrad::deform_conv2d
