// A pass on the CPU: planes are cut into strips of columns and these into bands of rows, one a thread. A band filters
// each row once along itself into a ring of as many rows as a window is high, which the nearer caches hold, and makes
// each row of the result from the ring. Nothing of the image's size is allocated.
//
// In order of appearance: how planes are cut; the filters of an image; Band.
#pragma once

#include "cpu/parallel.h"
#include "gaussian_blur_rows.h"

namespace handgrad::gaussian_blur {

// Bytes of a ring: those of the nearest cache, about; and, where strips would be narrow beside what their windows
// reach, half of the next.
inline constexpr int64_t kNearBytes = 40 * 1024, kFarBytes = 512 * 1024;

// Bounds depend on shapes and strides alone, and so do the sums that are made of rows of a strip.
struct Cut {
  int64_t group, groups;    // channels that are innermost, and how many of these planes an image has
  int64_t columns, strips;  // pixels of a strip
  int64_t items;            // strips of all planes

  Cut(const Geometry& geometry, const Pass& pass, const Operands& operands, int64_t element_size) {
    const bool grouped = geometry.channels > 1 && has_groups(operands.sources[0]) && has_groups(operands.sources[1]) &&
                         has_groups(operands.weight) && has_groups(operands.output);
    group = grouped ? geometry.channels : 1;
    groups = geometry.channels / group;
    const int64_t ring_of_pixel = (2 * geometry.radius[1] + 1) * pass.planes * group * element_size;
    const int64_t wide = std::min(16 * geometry.radius[0] + 64 / group, kFarBytes / ring_of_pixel);
    const int64_t most = std::max({int64_t{1}, wide, kNearBytes / ring_of_pixel});
    strips = (geometry.width + most - 1) / most;
    columns = (geometry.width + strips - 1) / strips;
    strips = (geometry.width + columns - 1) / columns;
    items = geometry.batch * groups * strips;
  }
};

// A cache line of numbers: rows of the ring begin with one, and not all in the same sets.
template <class C>
inline constexpr int64_t kSpare = 64 / static_cast<int64_t>(sizeof(C));

// Of one image, as Geometry::filter_at has them.
template <class C>
class Filters {
 public:
  Filters(const Geometry& geometry, const SigmaTable& table, int64_t n, bool differentiated)
      : geometry_(geometry), numbers_(static_cast<size_t>(geometry.filters())) {
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t taps = geometry.radius[axis] + 1;
      std::vector<double> exponentials(static_cast<size_t>(taps));
      Gaussian gaussian(table.of(n, axis));
      for (int64_t j = 0; j < taps; ++j) {
        const double e = exponentials[static_cast<size_t>(j)] = gaussian.exponential(j);
        gaussian.add(j, e);
      }
      const double along = table.along(n, axis);
      for (int64_t j = 0; j < taps; ++j) {
        const auto set = [&](Filter filter, double value) { at(axis, filter)[j] = static_cast<C>(value); };
        const double e = exponentials[static_cast<size_t>(j)];
        set(kValue, gaussian.weight(j, e, 0));
        if (!differentiated) continue;
        const double slope = gaussian.weight(j, e, 1), curvature = gaussian.weight(j, e, 2);
        set(kSlope, slope), set(kSlopeAlong, slope * along);
        set(kCurvature, curvature), set(kCurvatureAlong, curvature * along);
      }
    }
  }

  const C* at(int axis, Filter filter) const { return numbers_.data() + geometry_.filter_at(axis, filter); }

 private:
  C* at(int axis, Filter filter) { return numbers_.data() + geometry_.filter_at(axis, filter); }

  const Geometry& geometry_;
  std::vector<C> numbers_;
};

// The rows of one strip, on one thread.
template <class C>
class Band {
 public:
  Band(const Geometry& geometry, const Pass& pass, const Cut& cut, const Operands& operands)
      : geometry_(geometry),
        pass_(pass),
        cut_(cut),
        sources_{source_rows(operands.sources[0]), source_rows(operands.sources[1])},
        weight_(source_rows(operands.weight)),
        output_(target_rows(operands.output)),
        ring_rows_(2 * geometry.radius[1] + 1),
        pitch_((cut.columns * cut.group + kSpare<C> - 1) / kSpare<C> * kSpare<C> + kSpare<C>),
        padded_((cut.columns + 2 * geometry.radius[0]) * cut.group),
        ring_(static_cast<size_t>(pass.planes * ring_rows_ * pitch_)),
        padded_rows_(static_cast<size_t>(pass.sources * padded_)),
        zeros_(static_cast<size_t>(pitch_)),
        result_(static_cast<size_t>(2 * pitch_)) {}

  // Rows [first, last) of an item; `sums`, if there are any, gets two numbers for each row.
  void run(const Filters<C>& filters, int64_t item, int64_t first, int64_t last, double* sums) {
    filters_ = &filters;
    const int64_t plane = item / cut_.strips;
    n_ = plane / cut_.groups, c_ = plane % cut_.groups;
    begin_ = item % cut_.strips * cut_.columns;
    end_ = std::min(geometry_.width, begin_ + cut_.columns);
    const int64_t radius = geometry_.radius[1];
    int64_t made = std::max<int64_t>(0, first - radius);
    for (int64_t y = first; y < last; ++y) {
      for (; made <= std::min(geometry_.height - 1, y + radius); ++made) make_planes(made);
      for (int32_t o = 0; o < pass_.outputs; ++o) {
        sum_columns(pass_.output[o], y);
        if (output_) {
          store_row(result(0), length(), output_, output_.at(n_, c_, y, begin_), output_.stride(cut_.group));
        } else {
          load_row(weight_, weight_.at(n_, c_, y, begin_), weight_.stride(cut_.group), length(), result(1));
          sums[2 * y + o] = sum_of_products(result(0), result(1), length());
        }
      }
    }
  }

 private:
  // Numbers of a row of the strip.
  int64_t length() const { return (end_ - begin_) * cut_.group; }
  C* result(int k) { return result_.data() + k * pitch_; }
  C* ring(int32_t plane, int64_t y) { return ring_.data() + (plane * ring_rows_ + y % ring_rows_) * pitch_; }
  // The first pixel of the strip, in the padded row of a source.
  C* middle(int32_t source) { return padded_rows_.data() + source * padded_ + geometry_.radius[0] * cut_.group; }

  // ---- along rows -----------------------------------------------------------------------------------------------

  // The pixels that windows of the strip reach: beyond the image, its mirror, or zeros if the pass is transposed.
  void load_padded(int32_t source, int64_t y) {
    const SourceRows& rows = sources_[source];
    const int64_t group = cut_.group, radius = geometry_.radius[0], width = geometry_.width;
    const int64_t low = std::max<int64_t>(0, begin_ - radius), high = std::min(width, end_ + radius);
    C* const to = middle(source) - begin_ * group;
    load_row(rows, rows.at(n_, c_, y, low), rows.stride(group), (high - low) * group, to + low * group);
    const auto fill = [&](int64_t x) {
      for (int64_t k = 0; k < group; ++k) {
        to[x * group + k] = 0;
        if (!pass_.transposed) {
          const int64_t seen = mirrored(x, width);
          // A strip need not hold what it sees in the mirror.
          if (seen >= low && seen < high) {
            to[x * group + k] = to[seen * group + k];
          } else {
            load_row(rows, rows.at(n_, c_, y, seen) + (group > 1 ? k : 0), 1, 1, to + x * group + k);
          }
        }
      }
    };
    for (int64_t x = begin_ - radius; x < low; ++x) fill(x);
    for (int64_t x = high; x < end_ + radius; ++x) fill(x);
  }

  void make_planes(int64_t y) {
    for (int32_t s = 0; s < pass_.sources; ++s) load_padded(s, y);
    const int64_t group = cut_.group;
    for (int32_t p = 0; p < pass_.planes; ++p) {
      const Sum<2>& sum = pass_.plane[p];
      pairs_.clear();
      for (int32_t t = 0; t < sum.count; ++t) {
        const C *const row = middle(sum.terms[t].from), *const weights = filters_->at(0, sum.terms[t].filter);
        pairs_.push_back({row, zeros_.data(), weights[0]});
        for (int64_t j = 1; j <= geometry_.radius[0]; ++j) {
          pairs_.push_back({row - j * group, row + j * group, weights[j]});
        }
      }
      C* const to = ring(p, y);
      sum_pairs(pairs_.data(), static_cast<int64_t>(pairs_.size()), length(), to);
      if (!pass_.transposed) continue;
      for (int32_t t = 0; t < sum.count; ++t) {
        add_mirrored(middle(sum.terms[t].from), filters_->at(0, sum.terms[t].filter), to);
      }
    }
  }

  // What the mirrors at both ends of a row give back to the pixels of the strip that are seen in them.
  void add_mirrored(const C* row, const C* weights, C* to) const {
    const int64_t group = cut_.group, radius = geometry_.radius[0], last = geometry_.width - 1;
    for (int64_t x = begin_; x < end_; ++x) {
      if (x > radius && x < last - radius) x = std::min(end_ - 1, last - radius);
      for (const bool behind : {false, true}) {
        // How far pixel x, and those in whose windows it is seen, are from the mirror.
        const int64_t away = behind ? last - x : x;
        for (int64_t other = 0; away > 0 && other + away <= radius; ++other) {
          const C* const from = row + ((behind ? last - other : other) - begin_) * group;
          const C weight = weights[other + away];
          for (int64_t k = 0; k < group; ++k) to[(x - begin_) * group + k] += weight * from[k];
        }
      }
    }
  }

  // ---- across rows ----------------------------------------------------------------------------------------------

  void sum_columns(const Sum<2>& sum, int64_t y) {
    const int64_t radius = geometry_.radius[1], height = geometry_.height, last = height - 1;
    pairs_.clear();
    for (int32_t t = 0; t < sum.count; ++t) {
      const int32_t plane = sum.terms[t].from;
      const C* const weights = filters_->at(1, sum.terms[t].filter);
      const auto row = [&](int64_t at) -> const C* {
        if (pass_.transposed) return at >= 0 && at < height ? ring(plane, at) : zeros_.data();
        return ring(plane, mirrored(at, height));
      };
      pairs_.push_back({ring(plane, y), zeros_.data(), weights[0]});
      for (int64_t j = 1; j <= radius; ++j) pairs_.push_back({row(y - j), row(y + j), weights[j]});
      if (!pass_.transposed) continue;
      for (int64_t other = 0; y > 0 && other + y <= radius; ++other) {
        pairs_.push_back({ring(plane, other), zeros_.data(), weights[other + y]});
      }
      const int64_t away = last - y;
      for (int64_t other = 0; away > 0 && other + away <= radius; ++other) {
        pairs_.push_back({ring(plane, last - other), zeros_.data(), weights[other + away]});
      }
    }
    sum_pairs(pairs_.data(), static_cast<int64_t>(pairs_.size()), length(), result(0));
  }

  const Geometry& geometry_;
  const Pass& pass_;
  const Cut& cut_;
  SourceRows sources_[2], weight_;
  TargetRows output_;
  int64_t ring_rows_, pitch_, padded_;
  ScratchVector<C> ring_, padded_rows_, zeros_, result_;
  std::vector<Pair<C>> pairs_;
  const Filters<C>* filters_ = nullptr;
  int64_t n_ = 0, c_ = 0, begin_ = 0, end_ = 0;
};

// All rows of all items, and the sums of each image in the order of its rows.
template <class C>
void run_pass(const Geometry& geometry, const SigmaTable& table, const Pass& pass, const Operands& operands) {
  const Cut cut(geometry, pass, operands, sizeof(C));
  const int64_t rows = geometry.height;
  std::vector<double> sums(static_cast<size_t>(operands.sums ? 2 * cut.items * rows : 0));
  std::optional<Filters<C>> shared;
  if (!table.sigma) shared.emplace(geometry, table, 0, pass.is_differentiated());
  parallel_for(cut.items * rows, cut.columns * cut.group, [&](int64_t begin, int64_t end) {
    Band<C> band(geometry, pass, cut, operands);
    std::optional<Filters<C>> own;
    int64_t own_image = -1;
    while (begin < end) {
      const int64_t item = begin / rows, first = begin - item * rows, last = std::min(rows, first + end - begin);
      const int64_t n = item / (cut.groups * cut.strips);
      if (!shared && n != own_image) own.emplace(geometry, table, n, pass.is_differentiated()), own_image = n;
      band.run(shared ? *shared : *own, item, first, last, operands.sums ? sums.data() + 2 * item * rows : nullptr);
      begin += last - first;
    }
  });
  if (!operands.sums) return;
  const View<double, 2> results = mutable_view<double, 2>(*operands.sums);
  const int64_t rows_of_image = cut.groups * cut.strips * rows;
  for (int64_t n = 0; n < geometry.batch; ++n) {
    for (int64_t o = 0; o < 2; ++o) {
      double total = 0;
      for (int64_t row = 0; row < rows_of_image; ++row) {
        total += sums[static_cast<size_t>(2 * (n * rows_of_image + row) + o)];
      }
      *results.at(n, o) = total;
    }
  }
}

}  // namespace handgrad::gaussian_blur
