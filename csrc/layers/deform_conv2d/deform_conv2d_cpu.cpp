// Deformable convolution on the CPU.
//
// Each image is cut into bands of output positions, and a band into tiles. For a tile the samples of all taps and
// channels are written as a matrix, its columns, small enough for the second-level cache, and the weight is applied by
// torch's matmul; the matrix of a whole image, nine times its size for a 3x3 kernel, never exists. Backward makes the
// columns again rather than keeping them: they cost less than the multiplications they feed.
//
// Channels are innermost in everything that is sampled, so that a corner of a sample is one run of memory, and the work
// on it is vectorised across channels. An image that lies otherwise is rearranged band by band, the rows that the band
// looks at and no more.
//
// How the work is cut depends on sizes only, and what bands contribute to one pixel or weight is added in their order:
// the result is the same, to the bit, for any number of threads.
#include <cmath>

#include "abi/registration.h"
#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "deform_conv2d_host.h"
#include "math/convert.h"

namespace handgrad {
namespace {

using namespace deform_conv2d;

// Pieces of work to have for the threads to share, and the fewest positions worth a piece.
constexpr int64_t kUnits = 16, kSmallestUnit = 128;
// Bytes of one tile's columns, within its bounds on positions: fewer, and matmul spends its time packing the weight.
constexpr int64_t kColumnBytes = 640 * 1024, kSmallestTile = 96, kLargestTile = 1024;
// Bytes of all private copies of the weight's gradient, and how many there are at least.
constexpr int64_t kWeightCopiesBytes = int64_t{64} << 20, kSmallestLanes = 4;

// How the work is cut. A lane takes its units one after the other and sums their weight gradients.
struct Plan {
  int64_t bands, units, lanes, tile, width;

  Plan(const Geometry& at, int64_t element_bytes) {
    width = at.taps * at.group_channels;
    const int64_t fitting = kColumnBytes / (width * element_bytes) / 16 * 16;
    tile = std::min(kLargestTile, std::max(kSmallestTile, fitting));
    bands = 1;
    if (at.batch > 0 && at.batch < kUnits) {
      const int64_t most = std::max<int64_t>(1, at.positions / kSmallestUnit);
      bands = std::min(most, (kUnits + at.batch - 1) / at.batch);
    }
    // Bands of whole tiles, tiles of equal size.
    const int64_t band = (at.positions + bands - 1) / bands;
    const int64_t tiles = (band + tile - 1) / tile;
    tile = (band + tiles - 1) / tiles;
    units = at.batch * bands;
    const int64_t weight_bytes = at.out_channels * width * element_bytes;
    lanes = std::min({units, kUnits, std::max(kSmallestLanes, kWeightCopiesBytes / weight_bytes)});
  }
};

// What one unit covers.
struct Unit {
  int64_t image, begin, end;

  Unit(const Plan& plan, const Geometry& at, int64_t index) {
    image = index / plan.bands;
    const int64_t band = index % plan.bands;
    begin = at.positions * band / plan.bands;
    end = at.positions * (band + 1) / plan.bands;
  }
};

// work(lane, first unit, last unit) for all lanes. Always through torch's parallel_for, and never for a single item:
// that one would run outside any parallel region, where matmul takes all threads there are.
template <class Work>
void for_each_lane(const Plan& plan, const Work& work) {
  torch::stable::parallel_for(0, std::max<int64_t>(2, plan.lanes), 1, [&](int64_t begin, int64_t end) {
    for (int64_t lane = begin; lane < std::min(end, plan.lanes); ++lane) {
      work(lane, plan.units * lane / plan.lanes, plan.units * (lane + 1) / plan.lanes);
    }
  });
}

// step(element of the plane, place in the run, count) for the rows of output positions [begin, begin + count).
template <class T, class Step>
void for_each_run(const Geometry& at, const Field<T>& plane, int64_t n, int64_t c, int64_t begin, int64_t count,
                  const Step& step) {
  const bool one_run = plane.strides[2] == at.out_w * plane.strides[3];
  for (int64_t done = 0; done < count;) {
    const int64_t y = (begin + done) / at.out_w, x = (begin + done) % at.out_w;
    const int64_t run = one_run ? count : std::min(at.out_w - x, count - done);
    step(plane.at(n, c, y, x), done, run);
    done += run;
  }
}

template <class T>
void load_plane(const Geometry& at, const Field<const T>& from, int64_t n, int64_t c, int64_t begin, int64_t count,
                Compute<T>* to) {
  for_each_run(at, from, n, c, begin, count, [&](const T* element, int64_t done, int64_t run) {
    load_run(element, from.strides[3], run, to + done);
  });
}

template <class T>
void store_plane(const Geometry& at, const Compute<T>* from, int64_t n, int64_t c, int64_t begin, int64_t count,
                 const Field<T>& to) {
  for_each_run(at, to, n, c, begin, count,
               [&](T* element, int64_t done, int64_t run) { store_run(from + done, run, element, to.strides[3]); });
}

// Adds to the offsets of one tap where the tap looks without them.
template <class C>
void add_base(const Geometry& at, int64_t tap, int64_t begin, int64_t count, C* y, C* x) {
  int64_t row = begin / at.out_w, column = begin % at.out_w;
  for (int64_t i = 0; i < count; ++i) {
    if (y) y[i] += static_cast<C>(at.base_y(tap, row));
    if (x) x[i] += static_cast<C>(at.base_x(tap, column));
    if (++column == at.out_w) {
      column = 0;
      ++row;
    }
  }
}

// The rows [first, last) of an image.
struct RowRange {
  int64_t first, last;
};

// The rows that a unit looks at.
template <class T>
RowRange rows_of(const Geometry& at, const Plan& plan, const Field<const T>& offset, const Unit& unit) {
  using C = Compute<T>;
  std::vector<C> y(static_cast<size_t>(plan.tile));
  const C height = static_cast<C>(at.height);
  C lowest = height, highest = C(-1);
  for (int64_t plane = 0; plane < at.offset_groups * at.taps; ++plane) {
    for (int64_t begin = unit.begin; begin < unit.end; begin += plan.tile) {
      const int64_t count = std::min(plan.tile, unit.end - begin);
      load_plane(at, offset, unit.image, 2 * plane, begin, count, y.data());
      add_base<C>(at, plane % at.taps, begin, count, y.data(), nullptr);
      const C* at_y = y.data();
#pragma omp simd reduction(min : lowest) reduction(max : highest)
      for (int64_t i = 0; i < count; ++i) {
        const bool inside = at_y[i] >= C(-1) && at_y[i] < height;
        const C low = inside ? at_y[i] : height, high = inside ? at_y[i] : C(-1);
        lowest = low < lowest ? low : lowest;
        highest = high > highest ? high : highest;
      }
    }
  }
  if (lowest > highest) return {0, 0};
  return {std::max<int64_t>(0, static_cast<int64_t>(std::floor(lowest))),
          std::min<int64_t>(at.height, static_cast<int64_t>(std::floor(highest)) + 2)};
}

// Some rows of an image, channels innermost: where they lie, if they lie so, or a copy.
template <class T>
class PixelRows {
 public:
  using C = Compute<T>;

  PixelRows(const Geometry& at, const Field<const T>& image, int64_t n, RowRange rows) : first_(rows.first) {
    zeros_.resize(static_cast<size_t>(at.channels));
    if constexpr (std::is_same_v<T, C>) {
      if (image.strides[1] == 1) {
        base_ = image.at(n, 0, rows.first, 0);
        row_stride_ = image.strides[2];
        pixel_stride_ = image.strides[3];
        return;
      }
    }
    copy_.resize(static_cast<size_t>((rows.last - rows.first) * at.width * at.channels));
    row_stride_ = at.width * at.channels;
    pixel_stride_ = at.channels;
    base_ = copy_.data();
    std::vector<C> line(static_cast<size_t>(at.width));
    for (int64_t y = rows.first; y < rows.last; ++y) {
      C* to = copy_.data() + (y - rows.first) * row_stride_;
      if (image.strides[1] == 1) {
        for (int64_t x = 0; x < at.width; ++x) load_run(image.at(n, 0, y, x), 1, at.channels, to + x * at.channels);
        continue;
      }
      for (int64_t c = 0; c < at.channels; ++c) {
        load_run(image.at(n, c, y, 0), image.strides[3], at.width, line.data());
        for (int64_t x = 0; x < at.width; ++x) to[x * at.channels + c] = line[x];
      }
    }
  }

  // Channel c of the four corners of a sample.
  void corners(const BilinearSample<C>& sample, int64_t c, const C* (&to)[4]) const {
    const C* from = base_ + (sample.row - first_) * row_stride_ + sample.column * pixel_stride_ + c;
    for (int64_t q = 0; q < 4; ++q) {
      to[q] = sample.has(static_cast<int>(q)) ? from + q / 2 * row_stride_ + q % 2 * pixel_stride_ : zeros_.data() + c;
    }
  }

 private:
  const C* base_ = nullptr;
  int64_t row_stride_ = 0, pixel_stride_ = 0, first_ = 0;
  std::vector<C> copy_, zeros_;
};

// What one unit adds to the gradient of its image: the same rows, and four runs that nobody reads, for corners that
// are no pixels.
template <class C>
struct GradRows {
  RowRange rows{0, 0};
  int64_t row_stride = 0, pixel_stride = 0;
  std::vector<C> sums, unread;

  GradRows() = default;
  GradRows(const Geometry& at, RowRange range)
      : rows(range),
        row_stride(at.width * at.channels),
        pixel_stride(at.channels),
        sums(static_cast<size_t>((range.last - range.first) * row_stride)),
        unread(static_cast<size_t>(4 * at.channels)) {}

  void corners(const BilinearSample<C>& sample, int64_t c, C* (&to)[4]) {
    for (int64_t q = 0; q < 4; ++q) {
      to[q] = sample.has(static_cast<int>(q)) ? sums.data() + (sample.row - rows.first + q / 2) * row_stride +
                                                    (sample.column + q % 2) * pixel_stride + c
                                              : unread.data() + q * pixel_stride + c;
    }
  }
};

// Row y of the gradient of image n: the bands' contributions in their order.
template <class T>
void store_grad_row(const Geometry& at, const GradRows<Compute<T>>* bands, int64_t count, int64_t n, int64_t y,
                    Compute<T>* row, Compute<T>* line, const Field<T>& to) {
  using C = Compute<T>;
  const int64_t width = at.width * at.channels;
  std::fill(row, row + width, C(0));
  for (int64_t band = 0; band < count; ++band) {
    const GradRows<C>& from = bands[band];
    if (y < from.rows.first || y >= from.rows.last) continue;
    const C* added = from.sums.data() + (y - from.rows.first) * width;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < width; ++i) row[i] += added[i];
  }
  if (to.strides[1] == 1) {
    for (int64_t x = 0; x < at.width; ++x) store_run(row + x * at.channels, at.channels, to.at(n, 0, y, x), 1);
    return;
  }
  for (int64_t c = 0; c < at.channels; ++c) {
    for (int64_t x = 0; x < at.width; ++x) line[x] = row[x * at.channels + c];
    store_run(line, at.width, to.at(n, c, y, 0), to.strides[3]);
  }
}

// Neighbouring channels with one group of the convolution and one of the offsets.
struct Segment {
  int64_t channel, count, offset_group;
};

std::vector<Segment> segments_of(const Geometry& at, int64_t group) {
  std::vector<Segment> segments;
  const int64_t end = (group + 1) * at.group_channels;
  for (int64_t c = group * at.group_channels; c < end;) {
    const int64_t offset_group = c / at.offset_channels;
    const int64_t next = std::min(end, (offset_group + 1) * at.offset_channels);
    segments.push_back({c, next - c, offset_group});
    c = next;
  }
  return segments;
}

// The weight as a matrix of each group, (output channel) x (tap, channel): the order of the columns.
template <class T>
std::vector<Compute<T>> arranged_weight(const Geometry& at, const Field<const T>& weight) {
  std::vector<Compute<T>> to(static_cast<size_t>(at.out_channels * at.taps * at.group_channels));
  size_t i = 0;
  for (int64_t o = 0; o < at.out_channels; ++o) {
    for (int64_t t = 0; t < at.taps; ++t) {
      for (int64_t c = 0; c < at.group_channels; ++c) {
        to[i++] = widen(*weight.at(o, c, t / at.kernel_w, t % at.kernel_w));
      }
    }
  }
  return to;
}

// The numbers of a tile that come in planes of positions: one plane after the other, `pitch` apart.
template <class C>
struct Planes {
  int64_t pitch;
  std::vector<C> memory;

  Planes(int64_t count, int64_t pitch) : pitch(pitch), memory(static_cast<size_t>(count * pitch)) {}
  C* plane(int64_t index) { return memory.data() + index * pitch; }
  C& at(int64_t index, int64_t i) { return memory[static_cast<size_t>(index * pitch + i)]; }
  void fill(C value) { std::fill(memory.begin(), memory.end(), value); }
};

// Offsets of one tile, one plane for each offset group and tap; with the taps' own places added where asked for.
template <class T>
void load_offsets(const Geometry& at, const Field<const T>& offset, const Unit& unit, int64_t begin, int64_t count,
                  bool add_places, Planes<Compute<T>>& y, Planes<Compute<T>>& x) {
  for (int64_t plane = 0; plane < at.offset_groups * at.taps; ++plane) {
    load_plane(at, offset, unit.image, 2 * plane, begin, count, y.plane(plane));
    load_plane(at, offset, unit.image, 2 * plane + 1, begin, count, x.plane(plane));
    if (add_places) add_base(at, plane % at.taps, begin, count, y.plane(plane), x.plane(plane));
  }
}

template <class T>
void load_planes(const Geometry& at, const Field<const T>& from, int64_t planes, const Unit& unit, int64_t begin,
                 int64_t count, Planes<Compute<T>>& to) {
  for (int64_t plane = 0; plane < planes; ++plane) {
    load_plane(at, from, unit.image, plane, begin, count, to.plane(plane));
  }
}

template <class T>
void store_planes(const Geometry& at, Planes<Compute<T>>& from, int64_t planes, const Unit& unit, int64_t begin,
                  int64_t count, const Field<T>& to) {
  for (int64_t plane = 0; plane < planes; ++plane) {
    store_plane(at, from.plane(plane), unit.image, plane, begin, count, to);
  }
}

// ---- innermost loops: all channels of one sample
// ---------------------------------------------------------------------

template <class C>
void sample_channels(int64_t count, const C* const (&x)[4], const C (&weight)[4], C* __restrict column) {
  const C *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  const C w0 = weight[0], w1 = weight[1], w2 = weight[2], w3 = weight[3];
  HANDGRAD_SIMD
  for (int64_t c = 0; c < count; ++c) column[c] = w0 * x0[c] + w1 * x1[c] + w2 * x2[c] + w3 * x3[c];
}

// What is made of one sample in a derivative, as constants of the loop over its channels: the sample itself, for the
// gradient of the weight; what it adds to the gradients of its corners; and the sums of its gradient times the corners,
// for the gradients of offset and mask.
template <bool Columns, bool Scatter, bool Sums, class C>
void differentiate_channels(int64_t count, const C* const (&x)[4], const C (&weight)[4], const C* __restrict grad,
                            C* __restrict column, C* const (&grad_x)[4], C (&sums)[4]) {
  const C *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
  const C w0 = weight[0], w1 = weight[1], w2 = weight[2], w3 = weight[3];
  C* __restrict g0 = grad_x[0], * __restrict g1 = grad_x[1], * __restrict g2 = grad_x[2], * __restrict g3 = grad_x[3];
  C s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t c = 0; c < count; ++c) {
    if constexpr (Columns) column[c] = w0 * x0[c] + w1 * x1[c] + w2 * x2[c] + w3 * x3[c];
    if constexpr (Scatter || Sums) {
      const C g = grad[c];
      if constexpr (Sums) s0 += g * x0[c], s1 += g * x1[c], s2 += g * x2[c], s3 += g * x3[c];
      if constexpr (Scatter) g0[c] += w0 * g, g1[c] += w1 * g, g2[c] += w2 * g, g3[c] += w3 * g;
    }
  }
  sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

// One step further. v: corners of grad_grad_input; moved: how the weights change; h: the gradient of the column with
// respect to grad_grad_weight.
template <bool Columns, bool Scatter, bool Sums, class C>
void differentiate_channels_twice(int64_t count, const C* const (&x)[4], const C* const (&v)[4], const C (&weight)[4],
                                  const C (&moved)[4], const C* __restrict grad, const C* __restrict h,
                                  C* __restrict column, C* __restrict moved_column, C* const (&grad_x)[4],
                                  C (&of_input)[4], C (&of_moved)[4], C (&of_weight)[4]) {
  if constexpr (Columns) {
    for (int64_t c = 0; c < count; ++c) column[c] = moved_column[c] = 0;
  }
  for (int64_t q = 0; q < 4; ++q) {
    const C *xq = x[q], *vq = v[q];
    C* __restrict gq = grad_x[q];
    const C a = weight[q], b = moved[q];
    C by_input = 0, by_moved = 0, by_weight = 0;
#pragma omp simd reduction(+ : by_input, by_moved, by_weight)
    for (int64_t c = 0; c < count; ++c) {
      if constexpr (Columns) {
        column[c] += a * xq[c];
        moved_column[c] += b * xq[c] + a * vq[c];
      }
      if constexpr (Scatter) gq[c] += b * grad[c] + a * h[c];
      if constexpr (Sums) {
        by_input += grad[c] * xq[c];
        by_moved += grad[c] * vq[c];
        by_weight += h[c] * xq[c];
      }
    }
    of_input[q] = by_input, of_moved[q] = by_moved, of_weight[q] = by_weight;
  }
}

// ---- forward
// ---------------------------------------------------------------------------------------------------------

Tensor deform_conv2d_cpu(const Tensor& input, const Tensor& offset, const Tensor& weight,
                         const std::optional<Tensor>& bias, const std::optional<Tensor>& mask, int64_t stride_h,
                         int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h,
                         int64_t dilation_w) {
  const Geometry at = check_arguments(input, offset, weight, bias, mask,
                                      {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  const Tensor output = empty_output(at, input);
  if (at.batch == 0) return output;

  dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using C = Compute<T>;
    const Plan plan(at, sizeof(C));
    const Field<const T> in = field<T>(input), places = field<T>(offset), masks = field<T>(mask ? *mask : offset);
    const Field<T> out = mutable_field<T>(output);
    const std::vector<C> matrix = arranged_weight(at, field<T>(weight));
    std::vector<C> added(static_cast<size_t>(at.out_channels));
    if (bias) load_run(bias->const_data_ptr<T>(), bias->strides()[0], at.out_channels, added.data());

    for_each_lane(plan, [&](int64_t, int64_t first, int64_t last) {
      const int64_t planes = at.offset_groups * at.taps;
      Planes<C> y(planes, plan.tile), x(planes, plan.tile), m(planes, plan.tile), result(at.group_out, plan.tile);
      m.fill(C(1));
      std::vector<C> columns(static_cast<size_t>(plan.tile * plan.width));
      for (int64_t index = first; index < last; ++index) {
        const Unit unit(plan, at, index);
        const PixelRows<T> pixels(at, in, unit.image, rows_of(at, plan, places, unit));
        for (int64_t begin = unit.begin; begin < unit.end; begin += plan.tile) {
          const int64_t count = std::min(plan.tile, unit.end - begin);
          load_offsets(at, places, unit, begin, count, true, y, x);
          if (mask) load_planes(at, masks, planes, unit, begin, count, m);
          for (int64_t group = 0; group < at.groups; ++group) {
            const std::vector<Segment> segments = segments_of(at, group);
            C* column = columns.data();
            for (int64_t i = 0; i < count; ++i) {
              for (int64_t t = 0; t < at.taps; ++t) {
                for (const Segment& part : segments) {
                  const int64_t plane = part.offset_group * at.taps + t;
                  const BilinearSample<C> sample(y.at(plane, i), x.at(plane, i), at.height, at.width);
                  const C* corners[4];
                  C weights[4];
                  pixels.corners(sample, part.channel, corners);
                  for (int64_t q = 0; q < 4; ++q) weights[q] = sample.weight(static_cast<int>(q), m.at(plane, i));
                  sample_channels(part.count, corners, weights, column);
                  column += part.count;
                }
              }
            }
            const int64_t o = group * at.group_out;
            cpu_matmul(cpu_matrix(result.plane(0), at.group_out, count, plan.tile, 1),
                       cpu_matrix(matrix.data() + o * plan.width, at.group_out, plan.width, plan.width, 1),
                       cpu_matrix(columns.data(), plan.width, count, 1, plan.width), false);
            for (int64_t k = 0; k < at.group_out; ++k) {
              C* row = result.plane(k);
              const C value = added[static_cast<size_t>(o + k)];
              HANDGRAD_SIMD
              for (int64_t i = 0; i < count; ++i) row[i] += value;
              store_plane(at, row, unit.image, o + k, begin, count, out);
            }
          }
        }
      }
    });
  });
  return output;
}

// ---- backward and double backward
// ------------------------------------------------------------------------------------

// The tensors of both; only the double backward has directions v. What is None, or not asked for, has no data.
template <class T>
struct Operands {
  Field<const T> grad_output, input, offset, weight, mask;
  Field<const T> v_input, v_offset, v_weight, v_mask;
  const T* v_bias;
  int64_t v_bias_stride;
  Field<T> grad_grad_output, grad_input, grad_offset, grad_weight, grad_mask;
  T* grad_bias;

  bool moves() const { return v_input.data || v_offset.data || v_mask.data; }
};

template <class T>
Operands<T> operands(const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
                     const std::optional<Tensor>& mask, const Gradients& to) {
  Operands<T> on{};
  on.grad_output = field<T>(grad_output), on.input = field<T>(input), on.offset = field<T>(offset);
  on.weight = field<T>(weight);
  if (mask) on.mask = field<T>(*mask);
  if (to.wants_grad_output) on.grad_grad_output = mutable_field<T>(to.grad_output);
  if (to.wants_input) on.grad_input = mutable_field<T>(to.input);
  if (to.wants_offset) on.grad_offset = mutable_field<T>(to.offset);
  if (to.wants_weight) on.grad_weight = mutable_field<T>(to.weight);
  if (to.wants_mask) on.grad_mask = mutable_field<T>(to.mask);
  if (to.wants_bias) on.grad_bias = to.bias.mutable_data_ptr<T>();
  return on;
}

template <class T>
void set_directions(Operands<T>& on, const Directions& along) {
  if (along.input) on.v_input = field<T>(*along.input);
  if (along.offset) on.v_offset = field<T>(*along.offset);
  if (along.weight) on.v_weight = field<T>(*along.weight);
  if (along.mask) on.v_mask = field<T>(*along.mask);
  if (along.bias) on.v_bias = along.bias->const_data_ptr<T>(), on.v_bias_stride = along.bias->strides()[0];
}

// One thread's buffers for a tile.
template <class C, bool Second>
struct Scratch {
  Planes<C> y, x, m, g, grad_y, grad_x, grad_m;
  Planes<C> vy, vx, vm, result;
  std::vector<C> columns, grad_columns, moved_columns, h_columns, zeros;

  Scratch(const Geometry& at, const Plan& plan, bool columns_needed, bool grad_columns_needed, bool h_needed)
      : Scratch(plan.tile, at.offset_groups * at.taps, at.out_channels, at.group_out,
                columns_needed ? plan.tile * plan.width : 0, grad_columns_needed ? plan.tile * plan.width : 0,
                h_needed ? plan.tile * plan.width : 0, at.channels) {}

 private:
  Scratch(int64_t tile, int64_t planes, int64_t out_channels, int64_t group_out, int64_t elements,
          int64_t grad_elements, int64_t h_elements, int64_t channels)
      : y(planes, tile),
        x(planes, tile),
        m(planes, tile),
        g(out_channels, tile),
        grad_y(planes, tile),
        grad_x(planes, tile),
        grad_m(planes, tile),
        vy(Second ? planes : 0, tile),
        vx(Second ? planes : 0, tile),
        vm(Second ? planes : 0, tile),
        result(Second ? group_out : 0, tile),
        columns(static_cast<size_t>(elements)),
        grad_columns(static_cast<size_t>(grad_elements)),
        moved_columns(static_cast<size_t>(Second ? elements : 0)),
        h_columns(static_cast<size_t>(h_elements)),
        zeros(static_cast<size_t>(channels)) {
    m.fill(C(1));
  }
};

// Backward, and for Second the double backward: of each tile the gradient of its columns, then what is made of the
// samples, then the gradient of the weight and of grad_output.
template <class T, bool Second>
class Differentiation {
 public:
  using C = Compute<T>;

  Differentiation(const Geometry& at, const Operands<T>& on)
      : at_(at),
        on_(on),
        plan_(at, sizeof(C)),
        planes_(at.offset_groups * at.taps),
        columns_(Second ? (on.moves() && (on.grad_weight.data || on.grad_grad_output.data)) ||
                              (on.v_weight.data && on.grad_grad_output.data)
                        : on.grad_weight.data != nullptr),
        scatter_(on.grad_input.data),
        sums_(on.grad_offset.data || on.grad_mask.data) {}

  void run() {
    if (samples() || on_.grad_grad_output.data) matrix_ = arranged_weight(at_, on_.weight);
    if constexpr (Second) {
      if (on_.v_weight.data) v_matrix_ = arranged_weight(at_, on_.v_weight);
      v_bias_.resize(static_cast<size_t>(at_.out_channels));
      if (on_.v_bias) load_run(on_.v_bias, on_.v_bias_stride, at_.out_channels, v_bias_.data());
    }
    weight_sums_.resize(static_cast<size_t>(plan_.lanes));
    bias_sums_.resize(weight_sums_.size());
    // Of all units where several make up an image; of one at a time otherwise.
    grads_.resize(static_cast<size_t>(scatter_ && plan_.bands > 1 ? plan_.units : 0));
    for_each_lane(plan_, [&](int64_t lane, int64_t first, int64_t last) { take_units(lane, first, last); });
    if (scatter_ && plan_.bands > 1) store_grad_input();
    if (on_.grad_weight.data) store_grad_weight();
    if (on_.grad_bias) store_grad_bias();
  }

 private:
  // The positions [begin, begin + count) of a unit.
  struct Tile {
    const Unit& unit;
    int64_t begin, count;
  };

  // What the samples of one unit are of, and what they are added to.
  struct Rows {
    PixelRows<T> pixels;
    std::optional<PixelRows<T>> v_pixels;
    GradRows<C> grad;
  };

  bool samples() const { return columns_ || needs_grad_columns(); }
  bool needs_grad_columns() const { return scatter_ || sums_; }
  bool needs_grad_output() const { return needs_grad_columns() || on_.grad_weight.data || on_.grad_bias; }

  void take_units(int64_t lane, int64_t first, int64_t last) {
    Scratch<C, Second> s(at_, plan_, columns_, needs_grad_columns(), needs_grad_columns() && on_.v_weight.data);
    std::vector<C>& weight_sum = weight_sums_[static_cast<size_t>(lane)];
    std::vector<C>& bias_sum = bias_sums_[static_cast<size_t>(lane)];
    if (on_.grad_weight.data) weight_sum.resize(matrix_.size());
    if (on_.grad_bias) bias_sum.resize(static_cast<size_t>(at_.out_channels));
    std::vector<C> row(static_cast<size_t>(at_.width * at_.channels)), line(static_cast<size_t>(at_.width));

    for (int64_t index = first; index < last; ++index) {
      const Unit unit(plan_, at_, index);
      std::optional<Rows> rows;
      if (samples()) rows.emplace(rows_for(unit));
      for (int64_t begin = unit.begin; begin < unit.end; begin += plan_.tile) {
        const Tile tile{unit, begin, std::min(plan_.tile, unit.end - begin)};
        load(tile, s);
        if (on_.grad_bias) sum_bias(tile, s, bias_sum);
        for (int64_t group = 0; group < at_.groups; ++group) {
          if (needs_grad_columns()) make_grad_columns(tile, group, s);
          if (samples()) differentiate_samples(tile, group, s, *rows);
          if (on_.grad_weight.data) add_grad_weight(tile, group, s, weight_sum);
          if (on_.grad_grad_output.data) store_grad_grad_output(tile, group, s);
        }
        store_grad_offset(tile, s);
      }
      if (!scatter_) continue;
      if (plan_.bands > 1) {
        grads_[static_cast<size_t>(index)] = std::move(rows->grad);
      } else {
        for (int64_t y = 0; y < at_.height; ++y) {
          store_grad_row(at_, &rows->grad, 1, unit.image, y, row.data(), line.data(), on_.grad_input);
        }
      }
    }
  }

  Rows rows_for(const Unit& unit) const {
    const RowRange range = rows_of(at_, plan_, on_.offset, unit);
    Rows rows{PixelRows<T>(at_, on_.input, unit.image, range), std::nullopt, {}};
    if (on_.v_input.data) rows.v_pixels.emplace(at_, on_.v_input, unit.image, range);
    if (scatter_) rows.grad = GradRows<C>(at_, range);
    return rows;
  }

  void load(const Tile& tile, Scratch<C, Second>& s) const {
    if (samples()) {
      load_offsets(at_, on_.offset, tile.unit, tile.begin, tile.count, true, s.y, s.x);
      if (on_.mask.data) load_planes(at_, on_.mask, planes_, tile.unit, tile.begin, tile.count, s.m);
      if (on_.v_offset.data) load_offsets(at_, on_.v_offset, tile.unit, tile.begin, tile.count, false, s.vy, s.vx);
      if (on_.v_mask.data) load_planes(at_, on_.v_mask, planes_, tile.unit, tile.begin, tile.count, s.vm);
    }
    if (needs_grad_output()) {
      load_planes(at_, on_.grad_output, at_.out_channels, tile.unit, tile.begin, tile.count, s.g);
    }
    if (sums_) {
      s.grad_y.fill(C(0));
      s.grad_x.fill(C(0));
      s.grad_m.fill(C(0));
    }
  }

  void sum_bias(const Tile& tile, Scratch<C, Second>& s, std::vector<C>& bias_sum) const {
    for (int64_t o = 0; o < at_.out_channels; ++o) {
      const C* g = s.g.plane(o);
      C sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < tile.count; ++i) sum += g[i];
      bias_sum[static_cast<size_t>(o)] += sum;
    }
  }

  // A group's rows of the weight, or of its direction.
  Tensor weight_of(const std::vector<C>& matrix, int64_t group) const {
    return cpu_matrix(matrix.data() + group * at_.group_out * plan_.width, at_.group_out, plan_.width, plan_.width, 1);
  }
  // Columns as they are written, and as the weight is multiplied by them.
  Tensor as_rows(const std::vector<C>& columns, const Tile& tile) const {
    return cpu_matrix(columns.data(), tile.count, plan_.width, plan_.width, 1);
  }
  Tensor as_columns(const std::vector<C>& columns, const Tile& tile) const {
    return cpu_matrix(columns.data(), plan_.width, tile.count, 1, plan_.width);
  }

  void make_grad_columns(const Tile& tile, int64_t group, Scratch<C, Second>& s) const {
    const Tensor g = cpu_matrix(s.g.plane(group * at_.group_out), tile.count, at_.group_out, 1, plan_.tile);
    cpu_matmul(as_rows(s.grad_columns, tile), g, weight_of(matrix_, group), false);
    if (on_.v_weight.data) cpu_matmul(as_rows(s.h_columns, tile), g, weight_of(v_matrix_, group), false);
  }

  void differentiate_samples(const Tile& tile, int64_t group, Scratch<C, Second>& s, Rows& rows) const {
    dispatch_bool(columns_, [&](auto columns) {
      dispatch_bool(scatter_, [&](auto scatter) {
        dispatch_bool(sums_, [&](auto sums) {
          differentiate_samples<columns.value, scatter.value, sums.value>(tile, group, s, rows);
        });
      });
    });
  }

  template <bool Columns, bool Scatter, bool Sums>
  void differentiate_samples(const Tile& tile, int64_t group, Scratch<C, Second>& s, Rows& rows) const {
    const std::vector<Segment> segments = segments_of(at_, group);
    int64_t done = 0;
    for (int64_t i = 0; i < tile.count; ++i) {
      for (int64_t t = 0; t < at_.taps; ++t) {
        for (const Segment& part : segments) {
          if constexpr (Second) {
            differentiate_sample_twice<Columns, Scatter, Sums>(part, t, i, done, s, rows);
          } else {
            differentiate_sample<Columns, Scatter, Sums>(part, t, i, done, s, rows);
          }
          done += part.count;
        }
      }
    }
  }

  // Tap t at position i of the tile; its channels begin at `done` in every matrix of columns.
  template <bool Columns, bool Scatter, bool Sums>
  void differentiate_sample(const Segment& part, int64_t t, int64_t i, int64_t done, Scratch<C, Second>& s,
                            Rows& rows) const {
    const int64_t plane = part.offset_group * at_.taps + t;
    const BilinearSample<C> sample(s.y.at(plane, i), s.x.at(plane, i), at_.height, at_.width);
    const C m = s.m.at(plane, i);
    const C* corners[4];
    C* grad_corners[4] = {};
    C weights[4], sums[4];
    rows.pixels.corners(sample, part.channel, corners);
    if constexpr (Scatter) rows.grad.corners(sample, part.channel, grad_corners);
    for (int64_t q = 0; q < 4; ++q) weights[q] = sample.weight(static_cast<int>(q), m);
    differentiate_channels<Columns, Scatter, Sums>(part.count, corners, weights, s.grad_columns.data() + done,
                                                   s.columns.data() + done, grad_corners, sums);
    if constexpr (Sums) {
      s.grad_y.at(plane, i) += sample.grad_y(m, sums);
      s.grad_x.at(plane, i) += sample.grad_x(m, sums);
      s.grad_m.at(plane, i) += sample.grad_mask(sums);
    }
  }

  template <bool Columns, bool Scatter, bool Sums>
  void differentiate_sample_twice(const Segment& part, int64_t t, int64_t i, int64_t done, Scratch<C, Second>& s,
                                  Rows& rows) const {
    const int64_t plane = part.offset_group * at_.taps + t;
    const BilinearSample<C> sample(s.y.at(plane, i), s.x.at(plane, i), at_.height, at_.width);
    const C m = s.m.at(plane, i), vy = s.vy.at(plane, i), vx = s.vx.at(plane, i), vm = s.vm.at(plane, i);
    const C *corners[4], *v_corners[4];
    C* grad_corners[4] = {};
    C weights[4], moved[4], of_input[4], of_moved[4], of_weight[4];
    rows.pixels.corners(sample, part.channel, corners);
    if (rows.v_pixels) {
      rows.v_pixels->corners(sample, part.channel, v_corners);
    } else {
      std::fill(v_corners, v_corners + 4, s.zeros.data());
    }
    if constexpr (Scatter) rows.grad.corners(sample, part.channel, grad_corners);
    for (int q = 0; q < 4; ++q) {
      weights[q] = sample.weight(q, m);
      moved[q] = sample.moved_weight(q, m, vy, vx, vm);
    }
    const C* h = on_.v_weight.data ? s.h_columns.data() + done : s.zeros.data();
    differentiate_channels_twice<Columns, Scatter, Sums>(
        part.count, corners, v_corners, weights, moved, s.grad_columns.data() + done, h, s.columns.data() + done,
        s.moved_columns.data() + done, grad_corners, of_input, of_moved, of_weight);
    if constexpr (Sums) {
      s.grad_y.at(plane, i) += sample.grad_y_twice(m, vx, vm, of_input, of_moved, of_weight);
      s.grad_x.at(plane, i) += sample.grad_x_twice(m, vy, vm, of_input, of_moved, of_weight);
      s.grad_m.at(plane, i) += sample.grad_mask_twice(vy, vx, of_input, of_moved, of_weight);
    }
  }

  void add_grad_weight(const Tile& tile, int64_t group, Scratch<C, Second>& s, std::vector<C>& weight_sum) const {
    const Tensor g = cpu_matrix(s.g.plane(group * at_.group_out), at_.group_out, tile.count, plan_.tile, 1);
    cpu_matmul(weight_of(weight_sum, group), g, as_rows(Second ? s.moved_columns : s.columns, tile), true);
  }

  void store_grad_grad_output(const Tile& tile, int64_t group, Scratch<C, Second>& s) const {
    const Tensor result = cpu_matrix(s.result.plane(0), at_.group_out, tile.count, plan_.tile, 1);
    if (on_.moves()) cpu_matmul(result, weight_of(matrix_, group), as_columns(s.moved_columns, tile), false);
    if (on_.v_weight.data) cpu_matmul(result, weight_of(v_matrix_, group), as_columns(s.columns, tile), on_.moves());
    if (!on_.moves() && !on_.v_weight.data) s.result.fill(C(0));
    for (int64_t k = 0; k < at_.group_out; ++k) {
      const int64_t o = group * at_.group_out + k;
      C* of_channel = s.result.plane(k);
      const C value = v_bias_[static_cast<size_t>(o)];
      HANDGRAD_SIMD
      for (int64_t i = 0; i < tile.count; ++i) of_channel[i] += value;
      store_plane(at_, of_channel, tile.unit.image, o, tile.begin, tile.count, on_.grad_grad_output);
    }
  }

  void store_grad_offset(const Tile& tile, Scratch<C, Second>& s) const {
    const int64_t n = tile.unit.image;
    for (int64_t plane = 0; on_.grad_offset.data && plane < planes_; ++plane) {
      store_plane(at_, s.grad_y.plane(plane), n, 2 * plane, tile.begin, tile.count, on_.grad_offset);
      store_plane(at_, s.grad_x.plane(plane), n, 2 * plane + 1, tile.begin, tile.count, on_.grad_offset);
    }
    for (int64_t plane = 0; on_.grad_mask.data && plane < planes_; ++plane) {
      store_plane(at_, s.grad_m.plane(plane), n, plane, tile.begin, tile.count, on_.grad_mask);
    }
  }

  void store_grad_input() const {
    parallel_for(at_.batch * at_.height, at_.width * at_.channels, [&](int64_t begin, int64_t end) {
      std::vector<C> row(static_cast<size_t>(at_.width * at_.channels)), line(static_cast<size_t>(at_.width));
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / at_.height;
        store_grad_row(at_, grads_.data() + n * plan_.bands, plan_.bands, n, i % at_.height, row.data(), line.data(),
                       on_.grad_input);
      }
    });
  }

  void store_grad_weight() const {
    for (int64_t o = 0; o < at_.out_channels; ++o) {
      for (int64_t t = 0; t < at_.taps; ++t) {
        for (int64_t c = 0; c < at_.group_channels; ++c) {
          const size_t i = static_cast<size_t>(o * plan_.width + t * at_.group_channels + c);
          C sum = 0;
          for (const std::vector<C>& of_lane : weight_sums_) sum += of_lane[i];
          *on_.grad_weight.at(o, c, t / at_.kernel_w, t % at_.kernel_w) = narrow<T>(sum);
        }
      }
    }
  }

  void store_grad_bias() const {
    for (int64_t o = 0; o < at_.out_channels; ++o) {
      C sum = 0;
      for (const std::vector<C>& of_lane : bias_sums_) sum += of_lane[static_cast<size_t>(o)];
      on_.grad_bias[o] = narrow<T>(sum);
    }
  }

  const Geometry& at_;
  const Operands<T>& on_;
  const Plan plan_;
  const int64_t planes_;
  // What is made of the samples.
  const bool columns_, scatter_, sums_;
  std::vector<C> matrix_, v_matrix_, v_bias_;
  std::vector<std::vector<C>> weight_sums_, bias_sums_;
  std::vector<GradRows<C>> grads_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward_cpu(
    const Tensor& grad_output, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w,
    int64_t dilation_h, int64_t dilation_w, bool /*deterministic: always*/, const std::vector<bool>& output_mask) {
  const Geometry at = check_arguments(input, offset, weight, std::nullopt, mask,
                                      {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(at, grad_output, input);
  const Gradients to = Gradients::backward(at, input, offset, weight, mask, output_mask);
  if (to.any()) {
    dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const Operands<T> on = operands<T>(grad_output, input, offset, weight, mask, to);
      Differentiation<T, false>(at, on).run();
    });
  }
  return {to.input, to.offset, to.weight, to.bias, to.mask};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> deform_conv2d_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_input, const std::optional<Tensor>& grad_grad_offset,
    const std::optional<Tensor>& grad_grad_weight, const std::optional<Tensor>& grad_grad_bias,
    const std::optional<Tensor>& grad_grad_mask, const Tensor& grad_output, const Tensor& input, const Tensor& offset,
    const Tensor& weight, const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h,
    int64_t padding_w, int64_t dilation_h, int64_t dilation_w, bool /*deterministic: always*/,
    const std::vector<bool>& output_mask) {
  const Geometry at = check_arguments(input, offset, weight, std::nullopt, mask,
                                      {stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w});
  check_grad_output(at, grad_output, input);
  const Directions along{grad_grad_input, grad_grad_offset, grad_grad_weight, grad_grad_bias, grad_grad_mask};
  check_directions(at, along, input, offset, weight, mask);
  Gradients to = Gradients::double_backward(at, input, offset, weight, mask, output_mask);
  to.clear_what_stands_still(along);
  if (to.any()) {
    dispatch_floating(kOp, input.scalar_type(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      Operands<T> on = operands<T>(grad_output, input, offset, weight, mask, to);
      set_directions(on, along);
      Differentiation<T, true>(at, on).run();
    });
  }
  return {to.grad_output, to.input, to.offset, to.weight, to.mask};
}

}  // namespace
}  // namespace handgrad

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::deform_conv2d_cpu>(library, "deform_conv2d");
  handgrad::implement<handgrad::deform_conv2d_backward_cpu>(library, "_deform_conv2d_backward");
  handgrad::implement<handgrad::deform_conv2d_double_backward_cpu>(library, "_deform_conv2d_double_backward");
}
