// A leaky ReLU at a higher rate of samples on CUDA devices.
//
// A block takes a tile of outputs. The inputs that its windows reach are loaded into shared memory with the bias,
// upsampled there along rows and along columns, and the tile of the high rate that comes of it goes through the
// activation and is filtered down: the high rate is nowhere else. Tiles too large for shared memory have scratch in
// global memory, a few blocks at a time.
#include "cuda/channel_spans.cuh"
#include "cuda/fir.cuh"
#include "cuda/scratch_blocks.cuh"
#include "filtered_lrelu_host.h"

namespace handgrad::filtered_lrelu {
namespace {

// A stage as the kernel sees it.
template <class C>
struct Source {
  FirPlanes planes;
  FirFilter<C> filter;
  StoredView<const C, 4> image;
  View<const C, 1> b;

  explicit Source(const Stage& stage)
      : planes(stage.planes), filter(fir_filter<C>(*stage.filter, nullptr, stage.gain)) {
    if (stage.image) image = stored_view<C, 4>(*stage.image);
    if (stage.b) b = view<C, 1>(*stage.b);
  }
};

// Scratch of a block, in numbers: taps of a stage; what a stage reads, that filtered along rows (or, in the end, the
// tile filtered down along rows); and the tile of the high rate.
struct Room {
  int64_t weights = 0, samples = 0, between = 0, high = 0;

  template <class C>
  void add(const FirTiles& tiles, const Source<C>& source) {
    const int64_t rows = reach(source.planes.rows, tiles.source_height);
    const int64_t columns = int64_t{reach(source.planes.columns, tiles.source_width)} << tiles.channel_bits;
    weights = std::max<int64_t>(weights, fir_weights(source.planes, source.filter));
    samples = std::max(samples, rows * columns);
    if (source.filter.is_separable()) between = std::max(between, rows * tiles.source_pitch());
  }
  template <class C>
  void finish(const FirTiles& tiles, const FirFilter<C>& last) {
    high = tiles.source_size();
    weights = std::max<int64_t>(weights, fir_weights(tiles.planes, last));
    // The last rows lie over what the stages have read, with which the block is done.
    if (last.is_separable()) between = std::max(between, tiles.between_size() - samples);
  }
  HANDGRAD_MATH int64_t numbers() const { return weights + samples + between + high; }

 private:
  // Inputs that so many outputs reach.
  static int32_t reach(const FirAxis& axis, int32_t outputs) {
    return ((outputs - 1) * axis.down + axis.taps - 1) / axis.up + 2;
  }
};

// The same as addresses.
template <class C>
struct Rooms {
  C *weights, *samples, *between, *high;

  __device__ Rooms(const Room& room, C* memory)
      : weights(memory),
        samples(weights + room.weights),
        between(samples + room.samples),
        high(between + room.between) {}
};

// What of a box of an axis' outputs there is, and the inputs that it reaches.
struct Span {
  int32_t begin, end, low, high;  // outputs, inputs

  __device__ Span(const FirAxis& axis, int32_t first, int32_t last)
      : begin(first > 0 ? first : 0), end(last < axis.out ? last : axis.out), low(0), high(0) {
    if (begin < end) {
      axis.range(begin, end, low, high);
    } else {
      end = begin;
    }
  }
};

// One number of a stage, or of the last one, from rows of `pitch` numbers that begin with input (low_y, low_x).
template <class C>
__device__ __forceinline__ C filtered(const FirPlanes& planes, const C* weights, const C* from, int64_t pitch,
                                      int32_t bits, int32_t y, int32_t x, int32_t low_y, int32_t low_x, int32_t c) {
  return fir_sum<C>(planes.rows, y, [&](int32_t i, int32_t t) {
    const C* const line = from + int64_t{i - low_y} * pitch + c;
    const C* const row_weights = weights + t * planes.columns.taps;
    return fir_sum<C>(planes.columns, x,
                      [&](int32_t j, int32_t u) { return row_weights[u] * line[(j - low_x) << bits]; });
  });
}

// finish(index in the tile, value) for every number of the high rate that the tile has; 0 beyond its ends.
template <class C, class Finish>
__device__ __forceinline__ void raise(const FirTiles& tiles, const FirPlace& place, const Source<C>& source,
                                      const Rooms<C>& rooms, const Finish& finish) {
  const FirAxis &rows = source.planes.rows, &columns = source.planes.columns;
  const int32_t bits = tiles.channel_bits, mask = (1 << bits) - 1;
  const Span ys(rows, place.low_y, place.high_y), xs(columns, place.low_x, place.high_x);
  const int32_t source_pitch = (xs.high - xs.low) << bits, pitch = tiles.source_pitch();
  fir_load_weights(source.planes, source.filter, rooms.weights);
  fir_for_each(ys.high - ys.low, source_pitch, [&](int32_t row, int32_t k) {
    const int32_t y = ys.low + row, x = xs.low + (k >> bits), c = k & mask;
    C value = 0;
    if (y >= 0 && y < rows.in && x >= 0 && x < columns.in && c < place.channels) {
      if (source.image) value = read(source.image.at(place.n, place.c + c, y, x));
      if (source.b) value += load_constant(source.b.at(place.c + c));
    }
    rooms.samples[int64_t{row} * source_pitch + k] = value;
  });
  __syncthreads();
  const bool separable = source.filter.is_separable();
  if (separable) {
    const C* const of_columns = rooms.weights + rows.taps;
    fir_for_each(ys.high - ys.low, (xs.end - xs.begin) << bits, [&](int32_t row, int32_t k) {
      const C* const line = rooms.samples + int64_t{row} * source_pitch + (k & mask);
      rooms.between[int64_t{row} * pitch + k] = fir_sum<C>(columns, xs.begin + (k >> bits), [&](int32_t i, int32_t t) {
        return of_columns[t] * line[(i - xs.low) << bits];
      });
    });
    __syncthreads();
  }
  fir_for_each(place.high_y - place.low_y, (place.high_x - place.low_x) << bits, [&](int32_t row, int32_t k) {
    const int32_t y = place.low_y + row, x = place.low_x + (k >> bits);
    C value = 0;
    if (y >= ys.begin && y < ys.end && x >= xs.begin && x < xs.end) {
      if (separable) {
        const C* const column = rooms.between + ((x - xs.begin) << bits) + (k & mask);
        value = fir_sum<C>(
            rows, y, [&](int32_t i, int32_t t) { return rooms.weights[t] * column[int64_t{i - ys.low} * pitch]; });
      } else {
        value =
            filtered(source.planes, rooms.weights, rooms.samples, source_pitch, bits, y, x, ys.low, xs.low, k & mask);
      }
    }
    finish(int64_t{row} * pitch + k, value);
  });
  __syncthreads();
}

// The tile of the high rate filtered down; returns the sum of what the thread has written, all of one channel.
template <class C>
__device__ __forceinline__ double lower(const FirTiles& tiles, const FirPlace& place, const FirFilter<C>& filter,
                                        const Rooms<C>& rooms, const StoredView<C, 4>& target) {
  const FirAxis &rows = tiles.planes.rows, &columns = tiles.planes.columns;
  const int32_t bits = tiles.channel_bits, mask = (1 << bits) - 1;
  const int32_t source_pitch = tiles.source_pitch(), pitch = tiles.pitch();
  const bool separable = filter.is_separable();
  C* const between = rooms.samples;
  fir_load_weights(tiles.planes, filter, rooms.weights);
  __syncthreads();
  if (separable) {
    const C* const of_columns = rooms.weights + rows.taps;
    fir_for_each(place.high_y - place.low_y, place.width << bits, [&](int32_t row, int32_t k) {
      const C* const line = rooms.high + int64_t{row} * source_pitch + (k & mask);
      between[int64_t{row} * pitch + k] = fir_sum<C>(columns, place.x + (k >> bits), [&](int32_t i, int32_t t) {
        return of_columns[t] * line[(i - place.low_x) << bits];
      });
    });
    __syncthreads();
  }
  double total = 0;
  fir_for_each(place.height, place.width << bits, [&](int32_t row, int32_t k) {
    const int32_t c = k & mask, y = place.y + row, x = place.x + (k >> bits);
    if (c >= place.channels) return;
    C value;
    if (separable) {
      value = fir_sum<C>(rows, y, [&](int32_t i, int32_t t) {
        return rooms.weights[t] * between[int64_t{i - place.low_y} * pitch + k];
      });
    } else {
      value = filtered(tiles.planes, rooms.weights, rooms.high, source_pitch, bits, y, x, place.low_y, place.low_x, c);
    }
    write(target.at(place.n, place.c + c, y, x), value);
    total += static_cast<double>(value);
  });
  return total;
}

// partial[channel, tile of its planes] = the sum over the threads that have written it.
__device__ __forceinline__ void store_sums(const FirTiles& tiles, const FirPlace& place, int64_t tile, double total,
                                           double* partial) {
  __shared__ double of_warps[kFirRows][kFirColumns];
  const int32_t bits = tiles.channel_bits;
#pragma unroll 1
  for (int32_t distance = kFirColumns / 2; distance >= 1 << bits; distance /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, distance);
  }
  of_warps[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  const int32_t c = static_cast<int32_t>(threadIdx.x);
  if (threadIdx.y > 0 || c >= place.channels) return;
  double sum = 0;
#pragma unroll
  for (int warp = 0; warp < kFirRows; ++warp) sum += of_warps[warp][c];
  const int64_t per_channel = tiles.count / tiles.tiles_c;
  store(partial + (place.c + c) * per_channel + tile / tiles.tiles_c, sum);
}

// scratch: null where shared memory is large enough; partial: null if nobody asks for sums of channels.
template <class C, bool HasOther>
__global__ void __launch_bounds__(kFirThreads, kMinBlocks)
    fused_kernel(FirTiles tiles, Room room, Formula<C> formula, Source<C> x, Source<C> other, FirFilter<C> last,
                 StoredView<C, 4> target, int64_t first, C* scratch, double* partial) {
  HANDGRAD_LAUNCH_BOUNDS(kFirThreads);
  HANDGRAD_DYNAMIC_SHARED(C, shared);
  const Rooms<C> rooms(room, scratch ? scratch + blockIdx.x * room.numbers() : shared);
  const FirPlace place(tiles, first + blockIdx.x);
  raise(tiles, place, x, rooms, [&](int64_t at, C z) { rooms.high[at] = HasOther ? z : formula.value(z); });
  if constexpr (HasOther) {
    raise(tiles, place, other, rooms, [&](int64_t at, C g) { rooms.high[at] = formula.pull(rooms.high[at], g); });
  }
  const double total = lower(tiles, place, last, rooms, target);
  if (partial) store_sums(tiles, place, first + blockIdx.x, total, partial);
}

template <class C>
struct Launch {
  const FusedPass& pass;
  Source<C> x, other;
  FirFilter<C> last;

  explicit Launch(const FusedPass& pass)
      : pass(pass),
        x(pass.x),
        other(pass.other ? *pass.other : pass.x),
        last(fir_filter<C>(*pass.last.filter, nullptr, pass.last.gain)) {}

  Room room(const FirTiles& tiles) const {
    Room room;
    room.add(tiles, x);
    if (pass.other) room.add(tiles, other);
    room.finish(tiles, last);
    return room;
  }
  void run() const {
    const FirPlanes& planes = pass.last.planes;
    int32_t bits = fir_channel_bits(planes, pass.x.image ? *pass.x.image : *pass.target, *pass.target);
    if (pass.other && pass.other->image && fir_channel_bits(planes, *pass.other->image, *pass.target) == 0) bits = 0;
    const auto bytes = [&](const FirTiles& tiles) { return room(tiles).numbers() * static_cast<int64_t>(sizeof(C)); };
    const std::optional<FirTiles> fitting = fir_tiles(planes, bits, bytes);
    const FirTiles small(planes, 8, 8, bits);
    const FirTiles tiles = fitting ? *fitting : bytes(small) <= kMostScratch ? small : FirTiles(planes, 1, 1, 0);
    const Room own = room(tiles);
    const DeviceOf device(*pass.target);
    const StoredView<C, 4> target = mutable_stored_view<C, 4>(*pass.target);
    const int64_t per_channel = tiles.count / tiles.tiles_c;
    std::optional<Tensor> partial;
    if (pass.sums) partial = empty_vector<double>(planes.channels * per_channel, *pass.target);
    double* const sums = partial ? partial->template mutable_data_ptr<double>() : nullptr;
    for_blocks_with_scratch<C>(
        tiles.count, own.numbers(), kFirThreads, *pass.target, [&](int64_t first, Blocks blocks, C* scratch) {
          blocks.threads = dim3(kFirColumns, kFirRows, 1);
          launch(kOp, pass.other ? fused_kernel<C, true> : fused_kernel<C, false>, device, blocks, tiles, own,
                 Formula<C>(pass.activation), x, other, last, target, first, scratch, sums);
        });
    if (!sums) return;
    launch(kOp, add_spans_kernel<C>, device, span_sum_blocks(planes.channels), sums, per_channel, planes.channels,
           pass.sums->template mutable_data_ptr<C>());
  }
};

struct OnCuda {
  template <class C>
  static void run(const FusedPass& pass) {
    Launch<C>(pass).run();
  }
};

}  // namespace
}  // namespace handgrad::filtered_lrelu

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  handgrad::filtered_lrelu::implement<handgrad::filtered_lrelu::OnCuda>(library);
}
