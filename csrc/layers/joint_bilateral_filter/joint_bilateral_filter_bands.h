// The filter on the CPU: images are cut into strips of columns and these into bands of rows, one a thread. A band keeps
// as many rows as windows reach, with what is behind the border, and goes down its strip row by row. Nothing of the
// image's size is allocated.
//
// Backward: of each row that windows reach, first the denominators and values, as in the forward; from them what each
// window gives to the pixels in it; and pixel by pixel the sum of that over all windows that it is in. Behind the
// border there are pixels too, and what these get goes to the pixel that is seen there.
//
// In order of appearance: Band: loading, values, gains, gradients; all bands.
#pragma once

#include "cpu/border_strips.h"
#include "cpu/parallel.h"
#include "joint_bilateral_filter_host.h"
#include "joint_bilateral_filter_lanes.h"

namespace handgrad::joint_bilateral_filter {

template <class N>
class Band {
  using C = Plain<N>;

 public:
  Band(const Geometry& geometry, const BorderStrips& strips, const Operands& operands)
      : geometry_(geometry),
        strips_(strips),
        down_(geometry.radius[0]),
        right_(geometry.radius[1]),
        pad_((operands.grad_output ? 2 : 1) * right_),
        width_(strips.widest() + 2 * pad_),
        input_(source_rows(operands.input)),
        guidance_(source_rows(operands.guidance)),
        v_input_(source_rows(operands.v_input)),
        v_guidance_(source_rows(operands.v_guidance)),
        grad_output_(source_rows(operands.grad_output)),
        output_(target_rows(operands.output)),
        grad_input_(target_rows(operands.grad_input)),
        grad_guidance_(target_rows(operands.grad_guidance)),
        wants_sigma_(operands.grad_sigma),
        x_(slots(3), geometry.channels, width_),
        g_(geometry.own_guide ? 1 : slots(3), geometry.own_guide ? 0 : geometry.guides, width_),
        gains_(operands.grad_output ? slots(2) + 1 : 0, geometry.channels, width_),
        means_(operands.grad_output ? slots(2) + 1 : 0, 1, width_),
        lanes_(1, 4, width_),
        pulls_(1, geometry.channels, width_),
        slopes_(1, geometry.guides, width_),
        of_scales_(wants_sigma_ ? 1 : 0, 3, width_) {}

  // Values, or along directions, of rows [first, last) of an item.
  void forward(const SigmaTable& table, int64_t item, int64_t first, int64_t last) {
    move_to(table, item, first - down_);
    for (int64_t y = first; y < last; ++y) {
      sum_window(y, begin_, end_);
      for (int64_t c = 0; c < geometry_.channels; ++c) {
        const Row<N> x = x_.at(y)[c], pull = pulls()[c], total = totals();
        HANDGRAD_SIMD
        for (int64_t i = at(begin_); i < at(end_); ++i) pull.set(i, x.at(i) + pull.at(i) / total.at(i));
        store(pull, output_, c, y);
      }
    }
  }

  // Gradients of rows [first, last); `sums` gets three numbers for each, and three tangents.
  void backward(const SigmaTable& table, int64_t item, int64_t first, int64_t last, double* sums) {
    move_to(table, item, first - 2 * down_);
    int64_t made = first - down_;
    for (int64_t y = first; y < last; ++y) {
      for (; made <= y + down_; ++made) make_gains(made);
      gather(y);
      finish(y);
      if (wants_sigma_) sum_scales(sums + 6 * y);
    }
  }

 private:
  int64_t slots(int64_t times) const { return (grad_output_ ? times : 2) * down_ + 1; }
  // Column x of the image in a row of scratch.
  int64_t at(int64_t x) const { return x - begin_ + pad_; }
  bool circular() const { return geometry_.border == kCircular; }
  Rows<N> guide(int64_t y) { return geometry_.own_guide ? x_.at(y) : g_.at(y); }
  Row<N> totals() { return lanes_.at(0)[0]; }
  Row<N> distances() { return lanes_.at(0)[1]; }
  Row<N> weights() { return lanes_.at(0)[2]; }
  Row<N> effects() { return lanes_.at(0)[3]; }
  Rows<N> pulls() { return pulls_.at(0); }

  void move_to(const SigmaTable& table, int64_t item, int64_t row) {
    n_ = item / strips_.strips;
    begin_ = strips_.begin(item % strips_.strips), end_ = strips_.begin(item % strips_.strips + 1);
    scales_ = table.scales<N>(n_);
    loaded_ = row;
  }

  // ---- loading --------------------------------------------------------------------------------------------------

  void load_until(int64_t y) {
    for (; loaded_ <= y; ++loaded_) {
      for (int64_t c = 0; c < geometry_.channels; ++c) load(input_, v_input_, c, loaded_, x_.at(loaded_)[c]);
      if (geometry_.own_guide) continue;
      for (int64_t c = 0; c < geometry_.guides; ++c) load(guidance_, v_guidance_, c, loaded_, g_.at(loaded_)[c]);
    }
  }
  void load(const SourceRows& from, const SourceRows& along, int64_t c, int64_t y, Row<N> to) {
    load_padded(from, c, y, to.first);
    if constexpr (kIsDual<N>) load_padded(along, c, y, to.first + to.apart);
  }
  void load_padded(const SourceRows& from, int64_t c, int64_t y, C* to) {
    strips_.load(from, n_, c, y, begin_, end_, pad_, to);
  }
  void store(Row<N> from, const TargetRows& to, int64_t c, int64_t y) {
    const C* const numbers = from.first + (kIsDual<N> ? from.apart : 0) + at(begin_);
    store_run(to.dtype, numbers, end_ - begin_, to.data, to.at(n_, c, y, begin_), to.column);
  }

  // ---- values ---------------------------------------------------------------------------------------------------

  // Weights of the pixels [from, to) of row y and of those beside them, in `row`.
  void weigh_tap(int64_t y, int64_t row, int64_t down, int64_t right, int64_t from, int64_t to) {
    const int64_t i = at(from), count = to - from;
    sum_contributions<N>(geometry_.l1, guide(y) + i, guide(row) + i + right, geometry_.guides, count, distances() + i);
    const N space = scales_.space(static_cast<int32_t>(down), static_cast<int32_t>(right));
    dispatch_bool(geometry_.l1,
                  [&](auto l1) { weigh<N, l1.value>(distances() + i, scales_.color, space, count, weights() + i); });
  }

  // Denominators, and by how much pixels are drawn away from themselves, over them.
  void sum_window(int64_t y, int64_t from, int64_t to) {
    load_until(y + down_);
    const int64_t i = at(from), count = to - from;
    for (int64_t k = 0; k < count; ++k) totals().set(i + k, N(1));
    for (int64_t c = 0; c < geometry_.channels; ++c) (pulls()[c] + i).clear(count);
    for (int64_t down = -down_; down <= down_; ++down) {
      for (int64_t right = -right_; right <= right_; ++right) {
        if (down == 0 && right == 0) continue;
        weigh_tap(y, y + down, down, right, from, to);
        add_weights(weights() + i, count, totals() + i);
        const Rows<N> one = x_.at(y) + i, other = x_.at(y + down) + i + right, pull = pulls() + i;
        for_groups(geometry_.channels, [&](auto group, int64_t c) {
          add_pulls<N, group.value>(weights() + i, {one[c], one.pitch}, {other[c], other.pitch}, count,
                                    {pull[c], pull.pitch});
        });
      }
    }
  }

  // ---- gains ----------------------------------------------------------------------------------------------------

  // What the windows around row y give; nothing where there are none.
  void make_gains(int64_t y) {
    const int64_t height = geometry_.size[0], width = geometry_.size[1];
    const Rows<N> gains = gains_.at(y);
    const Row<N> means = means_.at(y)[0];
    for (int64_t c = 0; c < geometry_.channels; ++c) gains[c].clear(width_);
    means.clear(width_);
    if (!circular() && (y < 0 || y >= height)) return load_until(y + down_);
    const int64_t from = circular() ? begin_ - right_ : std::max<int64_t>(0, begin_ - right_);
    const int64_t to = circular() ? end_ + right_ : std::min(width, end_ + right_);
    sum_window(y, from, to);
    for (int64_t c = 0; c < geometry_.channels; ++c) {
      // Into the values, which it takes the place of.
      load_padded(grad_output_, c, y, lanes_.at(0)[2].first);
      const Row<N> gain = gains[c], pull = pulls()[c], total = totals();
      const C* const grad = weights().first;
      HANDGRAD_SIMD
      for (int64_t i = at(from); i < at(to); ++i) {
        const N share = grad[i] / total.at(i);
        gain.set(i, share);
        means.set(i, means.at(i) + share * (pull.at(i) / total.at(i)));
      }
    }
  }

  // ---- gradients ------------------------------------------------------------------------------------------------

  // Sums of what the pixels of row y get, behind the border too: of the input into pulls, of the guidance into slopes.
  void gather(int64_t y) {
    for (int64_t c = 0; c < geometry_.channels; ++c) pulls()[c].clear(width_);
    for (int64_t c = 0; c < geometry_.guides; ++c) slopes_.at(0)[c].clear(width_);
    if (wants_sigma_) {
      for (int k = 0; k < 3; ++k) of_scales_.at(0)[k].clear(width_);
    }
    gather_from(y, y);
    strips_.for_sights(y, down_, [&](int64_t seen) { gather_from(y, seen); });
  }

  // Row y where it is, or where it is seen behind the border: there no window has its middle.
  void gather_from(int64_t y, int64_t seen) {
    const bool behind = seen != y, folded = folds(geometry_.border);
    const int64_t width = geometry_.size[1], height = geometry_.size[0];
    const int64_t from = folded && begin_ == 0 ? -right_ : begin_;
    const int64_t to = folded && end_ == width ? width + right_ : end_, i = at(from), count = to - from;
    // Zeros: the gains of a row that is not there.
    const int64_t none = y - down_ - 1;
    if (behind) clear_gains(none);
    const int64_t own = behind ? none : y;
    const Side<N> one{x_.at(y) + i, gains_.at(own) + i, means_.at(own)[0] + i};
    for (int64_t down = -down_; down <= down_; ++down) {
      const int64_t row = seen + down;
      if (behind && (row < 0 || row >= height)) continue;
      for (int64_t right = -right_; right <= right_; ++right) {
        const Side<N> other{x_.at(row) + i + right, gains_.at(row) + i + right, means_.at(row)[0] + i + right};
        weigh_tap(y, row, down, right, from, to);
        if (grad_input_) {
          for_groups(geometry_.channels, [&](auto group, int64_t c) {
            add_gains<N, group.value>(weights() + i, {other.gains[c], other.gains.pitch}, count,
                                      {pulls()[c] + i, pulls().pitch});
          });
        }
        if (down == 0 && right == 0) continue;
        if (wants_slopes()) add_guidance(one, other, guide(y) + i, guide(row) + i + right, i, count);
        if (wants_sigma_ && !behind) add_sigma(one, other, down, right, from);
      }
    }
  }
  bool wants_slopes() const { return grad_guidance_ || (geometry_.own_guide && grad_input_); }
  void clear_gains(int64_t row) {
    for (int64_t c = 0; c < geometry_.channels; ++c) gains_.at(row)[c].clear(width_);
    means_.at(row)[0].clear(width_);
  }

  void add_guidance(const Side<N>& one, const Side<N>& other, Rows<N> g_one, Rows<N> g_other, int64_t i,
                    int64_t count) {
    sum_effects<N, true>(one, other, geometry_.channels, count, effects() + i);
    for_groups(geometry_.guides, [&](auto group, int64_t c) {
      const auto add = [&](auto l1) {
        add_slopes<N, l1.value, group.value>(weights() + i, effects() + i, distances() + i, {g_one[c], g_one.pitch},
                                             {g_other[c], g_other.pitch}, count,
                                             {slopes_.at(0)[c] + i, slopes_.at(0).pitch});
      };
      dispatch_bool(geometry_.l1, add);
    });
  }

  // Of windows of the strip's own pixels.
  void add_sigma(const Side<N>& one, const Side<N>& other, int64_t down, int64_t right, int64_t from) {
    const int64_t skipped = begin_ - from, i = at(begin_), count = end_ - begin_;
    const auto own = [skipped](const Side<N>& side) {
      return Side<N>{side.x + skipped, side.gains + skipped, side.means + skipped};
    };
    sum_effects<N, false>(own(one), own(other), geometry_.channels, count, effects() + i);
    dispatch_bool(geometry_.l1, [&](auto l1) {
      add_scales<N, l1.value>(weights() + i, effects() + i, distances() + i, static_cast<C>(down * down),
                              static_cast<C>(right * right), count, of_scales_.at(0) + i);
    });
  }

  // What was got behind the border goes to the pixels that are seen there; then the results are written.
  void finish(int64_t y) {
    const N factor = C(-2) * scales_.color;
    if (wants_slopes()) {
      for (int64_t c = 0; c < geometry_.guides; ++c) {
        const Row<N> slope = slopes_.at(0)[c], pull = pulls()[c];
        fold(slope);
        const bool both = geometry_.own_guide;
        if (both) fold(pull);
        HANDGRAD_SIMD
        for (int64_t i = at(begin_); i < at(end_); ++i) {
          slope.set(i, both ? pull.at(i) + factor * slope.at(i) : factor * slope.at(i));
        }
        store(slope, both ? grad_input_ : grad_guidance_, c, y);
      }
      if (geometry_.own_guide) return;
    }
    if (!grad_input_) return;
    for (int64_t c = 0; c < geometry_.channels; ++c) {
      fold(pulls()[c]);
      store(pulls()[c], grad_input_, c, y);
    }
  }
  void fold(Row<N> row) {
    strips_.fold(begin_, end_, [&](int64_t x, int64_t seen) { row.set(at(seen), row.at(at(seen)) + row.at(at(x))); });
  }

  void sum_scales(double* sums) {
    for (int k = 0; k < 3; ++k) {
      const Row<N> row = of_scales_.at(0)[k];
      double total = 0, along = 0;
      for (int64_t i = at(begin_); i < at(end_); ++i) {
        total += static_cast<double>(row.first[i]);
        if constexpr (kIsDual<N>) along += static_cast<double>(row.first[i + row.apart]);
      }
      sums[k] = -total, sums[3 + k] = -along;
    }
  }

  const Geometry& geometry_;
  const BorderStrips& strips_;
  int64_t down_, right_, pad_, width_;
  SourceRows input_, guidance_, v_input_, v_guidance_, grad_output_;
  TargetRows output_, grad_input_, grad_guidance_;
  bool wants_sigma_;
  Ring<N> x_, g_, gains_, means_, lanes_, pulls_, slopes_, of_scales_;
  Scales<N> scales_{};
  int64_t n_ = 0, begin_ = 0, end_ = 0, loaded_ = 0;
};

// body(band, item, first, last) for all rows of all items.
template <class N, class Body>
void for_bands(const Geometry& geometry, const BorderStrips& strips, const Operands& operands, const Body& body) {
  const int64_t rows = geometry.size[0];
  const int64_t taps = (2 * int64_t{geometry.radius[0]} + 1) * (2 * int64_t{geometry.radius[1]} + 1);
  parallel_for(geometry.batch * strips.strips * rows, strips.widest() * taps, [&](int64_t begin, int64_t end) {
    Band<N> band(geometry, strips, operands);
    while (begin < end) {
      const int64_t item = begin / rows, first = begin - item * rows, last = std::min(rows, first + end - begin);
      body(band, item, first, last);
      begin += last - first;
    }
  });
}

}  // namespace handgrad::joint_bilateral_filter
