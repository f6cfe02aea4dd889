// Rows of a tile of cosines on the CPU: what becomes of one in the forward and in the derivatives. A class has as many
// columns as it has centres, and its cosine is the largest of theirs, of equal ones the first.
//
// In order of appearance: Nearest, the classes' cosines of a row; add_others, the forward; slopes_of_row and
// slope_rates_of_row, which replace cosines by derivatives.
#pragma once

#include "cpu/scratch.h"
#include "margin_softmax_loss_math.h"

namespace handgrad::margin_softmax_loss {

// A row's classes: their cosines, and how these move; and which of its centres each class has that of.
template <class C>
class Nearest {
 public:
  Nearest(int64_t most_classes, int64_t centres)
      : centres_(centres),
        cosines_(static_cast<size_t>(centres > 1 ? most_classes : 0)),
        rates_(cosines_.size()),
        centre_(cosines_.size()) {}

  // Of `classes` classes. A class that is `target` has the centre that is known to be nearest, with rounding or not.
  void find(const C* cosines, const C* rates, int64_t classes) {
    first_cosine_ = cosines, first_rate_ = rates;
    if (centres_ == 1) return;
    for (int64_t c = 0; c < classes; ++c) {
      const C* const row = cosines + c * centres_;
      int64_t best = 0;
      for (int64_t k = 1; k < centres_; ++k) {
        // NaN is larger than all.
        if (row[k] > row[best] || (row[k] != row[k] && row[best] == row[best])) best = k;
      }
      const size_t i = static_cast<size_t>(c);
      cosines_[i] = row[best], centre_[i] = best;
      if (rates) rates_[i] = rates[c * centres_ + best];
    }
  }
  const C* cosines() const { return centres_ == 1 ? first_cosine_ : cosines_.data(); }
  const C* rates() const { return centres_ == 1 ? first_rate_ : rates_.data(); }
  // The column of a class.
  int64_t column(int64_t c) const { return centres_ == 1 ? c : c * centres_ + centre_[static_cast<size_t>(c)]; }
  int64_t centres() const { return centres_; }

 private:
  int64_t centres_;
  const C *first_cosine_ = nullptr, *first_rate_ = nullptr;
  ScratchVector<C> cosines_, rates_;
  std::vector<int64_t> centre_;
};

// The sums over classes [first, last).
template <class C, bool Moves>
Others others_of(const C* cosines, const C* rates, int64_t first, int64_t last, C scale) {
  Others others;
  if (first >= last) return others;
  C largest = -std::numeric_limits<C>::infinity();
  _Pragma("omp simd reduction(max : largest)") for (int64_t c = first; c < last; ++c) {
    largest = cosines[c] > largest ? cosines[c] : largest;
  }
  C sum = 0, moved = 0;
  _Pragma("omp simd reduction(+ : sum, moved)") for (int64_t c = first; c < last; ++c) {
    const C power = exp_decay(scale * (largest - cosines[c]));
    sum += power;
    if constexpr (Moves) moved += power * rates[c];
  }
  others.largest = static_cast<double>(largest);
  others.sum = static_cast<double>(sum);
  others.rates = static_cast<double>(moved);
  return others;
}

// Adds the classes of a tile but the target, which is `target` of them, or none where that is outside.
template <class C, bool Moves>
void add_others(const C* cosines, const C* rates, int64_t classes, int64_t target, double scale, Others& others) {
  const bool inside = target >= 0 && target < classes;
  const C factor = static_cast<C>(scale);
  others.merge(others_of<C, Moves>(cosines, rates, 0, inside ? target : classes, factor), scale);
  if (inside) others.merge(others_of<C, Moves>(cosines, rates, target + 1, classes, factor), scale);
}

// A row of a tile: from its cosines to the loss' derivatives with respect to them, and, if they move, from what they
// move by to what the derivatives do; in place. The target's column is `target` of the tile's.
template <class C, bool Moves>
void slopes_of_row(const RowSlopes<C>& row, C scale, int64_t classes, int64_t target, Nearest<C>& nearest, C* cosines,
                   C* rates) {
  const int64_t centres = nearest.centres(), columns = classes * centres;
  if (row.column == kIgnored) {
    std::fill_n(cosines, columns, C(0));
    if constexpr (Moves) std::fill_n(rates, columns, C(0));
    return;
  }
  if (centres == 1) {
    HANDGRAD_SIMD
    for (int64_t c = 0; c < classes; ++c) {
      const C slope = row.slope(cosines[c], scale);
      cosines[c] = slope;
      if constexpr (Moves) rates[c] = row.slope_rate(slope, rates[c], scale);
    }
  } else {
    nearest.find(cosines, Moves ? rates : nullptr, classes);
    std::fill_n(cosines, columns, C(0));
    if constexpr (Moves) std::fill_n(rates, columns, C(0));
    for (int64_t c = 0; c < classes; ++c) {
      const C slope = row.slope(nearest.cosines()[c], scale);
      cosines[nearest.column(c)] = slope;
      if constexpr (Moves) rates[nearest.column(c)] = row.slope_rate(slope, nearest.rates()[c], scale);
    }
  }
  if (target < 0 || target >= columns) return;
  const int64_t first = target / centres * centres;
  std::fill_n(cosines + first, centres, C(0));
  cosines[target] = row.target;
  if constexpr (Moves) {
    std::fill_n(rates + first, centres, C(0));
    rates[target] = row.target_rate;
  }
}

}  // namespace handgrad::margin_softmax_loss
