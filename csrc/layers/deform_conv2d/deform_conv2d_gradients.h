// The backward and the double backward of a deformable convolution on the CPU.
//
// Differentiation passes over bands and tiles: of each tile it makes the gradient of its columns, then what is made of
// the samples, then the gradients of the weight and of grad_output.
#pragma once

#include "deform_conv2d_operands.h"
#include "deform_conv2d_samples.h"

namespace handgrad::deform_conv2d {

template <class C, bool Twice>
class Differentiation {
 public:
  Differentiation(const Geometry& geometry, const Operands<C>& operands)
      : geometry_(geometry),
        operands_(operands),
        plan_(geometry, sizeof(C)),
        work_{needs_columns(operands), static_cast<bool>(operands.grad_input),
              operands.grad_offset || operands.grad_mask} {}

  void run() {
    weight_ = arranged_weight(geometry_, operands_.weight);
    if (operands_.v_weight) v_weight_ = arranged_weight(geometry_, operands_.v_weight);
    v_bias_.resize(static_cast<size_t>(geometry_.out_channels));
    if (operands_.v_bias) {
      load_run(operands_.v_bias.first, operands_.v_bias.strides[0], geometry_.out_channels, v_bias_.data());
    }
    weight_sums_.resize(static_cast<size_t>(plan_.lanes));
    bias_sums_.resize(weight_sums_.size());
    // Of all bands where several make up an image; of one at a time otherwise.
    grad_rows_.resize(static_cast<size_t>(work_.scatter && plan_.bands_per_image > 1 ? plan_.bands : 0));
    for_each_lane(plan_, [&](int64_t lane, int64_t first, int64_t last) { take_bands(lane, first, last); });
    if (!grad_rows_.empty()) store_grad_input();
    if (operands_.grad_weight) store_grad_weight();
    if (operands_.grad_bias) store_grad_bias();
  }

 private:
  using Memory = TileMemory<C, Twice>;

  // What the samples of one band are of, and what they are added to.
  struct Rows {
    PixelRows<C> pixels;
    std::optional<PixelRows<C>> v_pixels;
    GradRows<C> grad;
  };

  static bool needs_columns(const Operands<C>& operands) {
    if (!Twice) return static_cast<bool>(operands.grad_weight);
    return (operands.moves() && operands.grad_weight) ||
           ((operands.moves() || operands.v_weight) && operands.grad_grad_output);
  }

  // ---- bands and tiles
  // -----------------------------------------------------------------------------------------------

  void take_bands(int64_t lane, int64_t first, int64_t last) {
    Memory memory(geometry_, plan_, work_, static_cast<bool>(operands_.v_weight));
    ScratchVector<C>& weight_sum = weight_sums_[static_cast<size_t>(lane)];
    ScratchVector<double>& bias_sum = bias_sums_[static_cast<size_t>(lane)];
    if (operands_.grad_weight) weight_sum.resize(weight_.size());
    if (operands_.grad_bias) bias_sum.resize(static_cast<size_t>(geometry_.out_channels));
    GradRowStore<C> row_store(geometry_);

    for (int64_t index = first; index < last; ++index) {
      const Band band(plan_, geometry_, index);
      std::optional<Rows> rows;
      if (work_.any()) rows.emplace(rows_for(band));
      for_each_tile(plan_, band, [&](const Tile& tile) {
        load(tile, memory);
        if (operands_.grad_bias) sum_bias(tile, memory, bias_sum);
        for (int64_t group = 0; group < geometry_.groups; ++group) {
          if (work_.needs_grad_columns()) make_grad_columns(tile, group, memory);
          if (work_.any()) differentiate_samples(tile, group, memory, *rows);
          if (operands_.grad_weight) add_grad_weight(tile, group, memory, weight_sum);
          if (operands_.grad_grad_output) store_grad_grad_output(tile, group, memory);
        }
        if (operands_.grad_offset) {
          store_offsets(geometry_, memory.grad_y, memory.grad_x, operands_.grad_offset, tile);
        }
        if (operands_.grad_mask) memory.grad_mask.store(geometry_, operands_.grad_mask, tile);
      });
      if (!work_.scatter) continue;
      if (plan_.bands_per_image > 1) {
        grad_rows_[static_cast<size_t>(index)] = std::move(rows->grad);
      } else {
        for (int64_t y = 0; y < geometry_.height; ++y) row_store.store(&rows->grad, 1, band.n, y, operands_.grad_input);
      }
    }
  }

  Rows rows_for(const Band& band) const {
    const RowRange range = rows_of(geometry_, plan_, operands_.offset, band);
    Rows rows{PixelRows<C>(geometry_, operands_.input, band.n, range), std::nullopt, {}};
    if (operands_.v_input) rows.v_pixels.emplace(geometry_, operands_.v_input, band.n, range);
    if (work_.scatter) rows.grad = GradRows<C>(geometry_, range);
    return rows;
  }

  void load(const Tile& tile, Memory& memory) const {
    const Operands<C>& from = operands_;
    if (work_.any()) {
      load_offsets(geometry_, from.offset, tile, true, memory.y, memory.x);
      if (from.mask) memory.mask.load(geometry_, from.mask, tile);
      if (from.v_offset) load_offsets(geometry_, from.v_offset, tile, false, memory.v_y, memory.v_x);
      if (from.v_mask) memory.v_mask.load(geometry_, from.v_mask, tile);
    }
    if (work_.needs_grad_columns() || from.grad_weight || from.grad_bias) {
      memory.grad_output.load(geometry_, from.grad_output, tile);
    }
    if (work_.sums) {
      for (Planes<C>* sums : {&memory.grad_y, &memory.grad_x, &memory.grad_mask}) sums->fill(C(0));
    }
  }

  // In double: there may be millions of positions.
  void sum_bias(const Tile& tile, Memory& memory, ScratchVector<double>& bias_sum) const {
    for (int64_t o = 0; o < geometry_.out_channels; ++o) {
      const C* g = memory.grad_output.plane(o);
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < tile.count; ++i) sum += static_cast<double>(g[i]);
      bias_sum[static_cast<size_t>(o)] += sum;
    }
  }

  // ---- columns, and the gradients that are products of matrices
  // ------------------------------------------------------

  // A group's rows of the weight, or of what is like it.
  Tensor weight_of(const ScratchVector<C>& weight, int64_t group) const {
    const int64_t o = group * geometry_.group_out;
    return cpu_matrix(weight.data() + o * plan_.width, geometry_.group_out, plan_.width, plan_.width, 1);
  }
  // Columns as they are written, and as the weight is multiplied by them.
  Tensor as_rows(const ScratchVector<C>& columns, const Tile& tile) const {
    return cpu_matrix(columns.data(), tile.count, plan_.width, plan_.width, 1);
  }
  Tensor as_columns(const ScratchVector<C>& columns, const Tile& tile) const {
    return cpu_matrix(columns.data(), plan_.width, tile.count, 1, plan_.width);
  }

  void make_grad_columns(const Tile& tile, int64_t group, Memory& memory) const {
    const C* grad = memory.grad_output.plane(group * geometry_.group_out);
    const Tensor g = cpu_matrix(grad, tile.count, geometry_.group_out, 1, plan_.tile);
    cpu_matmul(as_rows(memory.grad_columns, tile), g, weight_of(weight_, group), false);
    if (operands_.v_weight) cpu_matmul(as_rows(memory.h_columns, tile), g, weight_of(v_weight_, group), false);
  }

  void add_grad_weight(const Tile& tile, int64_t group, Memory& memory, ScratchVector<C>& weight_sum) const {
    const C* grad = memory.grad_output.plane(group * geometry_.group_out);
    const Tensor g = cpu_matrix(grad, geometry_.group_out, tile.count, plan_.tile, 1);
    const ScratchVector<C>& columns = Twice ? memory.v_columns : memory.columns;
    cpu_matmul(weight_of(weight_sum, group), g, as_rows(columns, tile), true);
  }

  void store_grad_grad_output(const Tile& tile, int64_t group, Memory& memory) const {
    Planes<C>& planes = memory.grad_grad_output;
    const Tensor result = cpu_matrix(planes.plane(0), geometry_.group_out, tile.count, plan_.tile, 1);
    const bool moves = operands_.moves();
    if (moves) cpu_matmul(result, weight_of(weight_, group), as_columns(memory.v_columns, tile), false);
    if (operands_.v_weight) cpu_matmul(result, weight_of(v_weight_, group), as_columns(memory.columns, tile), moves);
    if (!moves && !operands_.v_weight) planes.fill(C(0));
    for (int64_t k = 0; k < geometry_.group_out; ++k) {
      const int64_t o = group * geometry_.group_out + k;
      store_with_bias(geometry_, planes.plane(k), v_bias_[static_cast<size_t>(o)], operands_.grad_grad_output, tile, o);
    }
  }

  // ---- samples
  // -------------------------------------------------------------------------------------------------------

  void differentiate_samples(const Tile& tile, int64_t group, Memory& memory, Rows& rows) const {
    dispatch_bool(work_.columns, [&](auto columns) {
      dispatch_bool(work_.scatter, [&](auto scatter) {
        dispatch_bool(work_.sums, [&](auto sums) {
          differentiate_samples<columns.value, scatter.value, sums.value>(tile, group, memory, rows);
        });
      });
    });
  }

  template <bool Columns, bool Scatter, bool Sums>
  void differentiate_samples(const Tile& tile, int64_t group, Memory& memory, Rows& rows) const {
    const std::vector<Segment> segments = segments_of(geometry_, group);
    int64_t done = 0;
    for (int64_t i = 0; i < tile.count; ++i) {
      for (int64_t t = 0; t < geometry_.taps; ++t) {
        for (const Segment& segment : segments) {
          if constexpr (Twice) {
            differentiate_sample_twice<Columns, Scatter, Sums>(segment, t, i, done, memory, rows);
          } else {
            differentiate_sample<Columns, Scatter, Sums>(segment, t, i, done, memory, rows);
          }
          done += segment.count;
        }
      }
    }
  }

  // Tap t at position i of the tile; its channels begin at `done` in every matrix of columns.
  template <bool Columns, bool Scatter, bool Sums>
  void differentiate_sample(const Segment& segment, int64_t t, int64_t i, int64_t done, Memory& memory,
                            Rows& rows) const {
    const int64_t plane = segment.offset_group * geometry_.taps + t;
    const DeformedSample<C> sample(memory.y.at(plane, i), memory.x.at(plane, i), geometry_.height, geometry_.width);
    const C mask = memory.mask.at(plane, i);
    const C* corners[4];
    C* grad_corners[4] = {};
    C weights[4], sums[4];
    rows.pixels.corners(sample, segment.channel, corners);
    if constexpr (Scatter) rows.grad.corners(sample, segment.channel, grad_corners);
    for (int q = 0; q < 4; ++q) weights[q] = sample.weight(q, mask);
    differentiate_channels<Columns, Scatter, Sums>(segment.count, corners, weights, memory.grad_columns.data() + done,
                                                   memory.columns.data() + done, grad_corners, sums);
    if constexpr (Sums) {
      memory.grad_y.at(plane, i) += sample.grad_y(mask, sums);
      memory.grad_x.at(plane, i) += sample.grad_x(mask, sums);
      memory.grad_mask.at(plane, i) += sample.grad_factor(sums);
    }
  }

  template <bool Columns, bool Scatter, bool Sums>
  void differentiate_sample_twice(const Segment& segment, int64_t t, int64_t i, int64_t done, Memory& memory,
                                  Rows& rows) const {
    const int64_t plane = segment.offset_group * geometry_.taps + t;
    const DeformedSample<C> sample(memory.y.at(plane, i), memory.x.at(plane, i), geometry_.height, geometry_.width);
    const C mask = memory.mask.at(plane, i), v_y = memory.v_y.at(plane, i), v_x = memory.v_x.at(plane, i);
    const C v_mask = memory.v_mask.at(plane, i);
    const C *corners[4], *v_corners[4];
    C* grad_corners[4] = {};
    C weights[4], changes[4], of_input[4], of_v[4], of_h[4];
    rows.pixels.corners(sample, segment.channel, corners);
    std::fill(v_corners, v_corners + 4, memory.zeros.data());
    if (rows.v_pixels) rows.v_pixels->corners(sample, segment.channel, v_corners);
    if constexpr (Scatter) rows.grad.corners(sample, segment.channel, grad_corners);
    for (int q = 0; q < 4; ++q) {
      weights[q] = sample.weight(q, mask);
      changes[q] = sample.weight_change(q, mask, v_y, v_x, v_mask);
    }
    const C* h = operands_.v_weight ? memory.h_columns.data() + done : memory.zeros.data();
    differentiate_channels_twice<Columns, Scatter, Sums>(
        segment.count, corners, v_corners, weights, changes, memory.grad_columns.data() + done, h,
        memory.columns.data() + done, memory.v_columns.data() + done, grad_corners, of_input, of_v, of_h);
    if constexpr (Sums) {
      memory.grad_y.at(plane, i) += sample.second_grad_y(mask, v_x, v_mask, of_input, of_v, of_h);
      memory.grad_x.at(plane, i) += sample.second_grad_x(mask, v_y, v_mask, of_input, of_v, of_h);
      memory.grad_mask.at(plane, i) += sample.second_grad_mask(v_y, v_x, of_input, of_v, of_h);
    }
  }

  // ---- what is summed over bands, in their order
  // ---------------------------------------------------------------------

  void store_grad_input() const {
    const int64_t height = geometry_.height, bands = plan_.bands_per_image;
    parallel_for(geometry_.batch * height, geometry_.width * geometry_.channels, [&](int64_t begin, int64_t end) {
      GradRowStore<C> row_store(geometry_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / height;
        row_store.store(grad_rows_.data() + n * bands, bands, n, i % height, operands_.grad_input);
      }
    });
  }

  void store_grad_weight() const {
    const StoredView<C, 4>& to = operands_.grad_weight;
    const int64_t count = geometry_.group_channels;
    ScratchVector<C> sum(static_cast<size_t>(count));
    for (int64_t o = 0; o < geometry_.out_channels; ++o) {
      for (int64_t t = 0; t < geometry_.taps; ++t) {
        std::fill(sum.begin(), sum.end(), C(0));
        for (const ScratchVector<C>& of_lane : weight_sums_) {
          const C* row = of_lane.data() + o * plan_.width + t * count;
          HANDGRAD_SIMD
          for (int64_t c = 0; c < count; ++c) sum[static_cast<size_t>(c)] += row[c];
        }
        store_run(sum.data(), count, to.at(o, 0, t / geometry_.kernel_w, t % geometry_.kernel_w), to.strides[1]);
      }
    }
  }

  void store_grad_bias() const {
    ScratchVector<C> sums(static_cast<size_t>(geometry_.out_channels));
    for (size_t o = 0; o < sums.size(); ++o) {
      double sum = 0;
      for (const ScratchVector<double>& of_lane : bias_sums_) sum += of_lane[o];
      sums[o] = static_cast<C>(sum);
    }
    store_run(sums.data(), geometry_.out_channels, operands_.grad_bias.first, operands_.grad_bias.strides[0]);
  }

  const Geometry& geometry_;
  const Operands<C>& operands_;
  const Plan plan_;
  const SampleWork work_;
  ScratchVector<C> weight_, v_weight_, v_bias_;
  std::vector<ScratchVector<C>> weight_sums_;
  std::vector<ScratchVector<double>> bias_sums_;
  std::vector<GradRows<C>> grad_rows_;
};

}  // namespace handgrad::deform_conv2d
