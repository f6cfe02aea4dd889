// The formula of generalized dice loss, of all classes together: docs/losses/generalized_dice_loss.md derives it.
#pragma once

#include <cstdint>
#include <tuple>

#include "math/class_sums.h"

namespace handgrad {

struct GeneralizedDiceLoss {
  int64_t weighting;  // the power of the sum of targets that a class is divided by: 2, 1 or 0
  double smooth;
  bool skip_absent;
  static constexpr bool kTogether = true;

  // Sums over classes, each times its weight; the weight of a class without a target.
  template <class N>
  struct State {
    N overlap, total;
    double weight_of_absent;
  };

  template <class N, class Rows>
  HANDGRAD_MATH State<N> gather(const Rows& rows, int64_t classes) const {
    State<N> state{N(0.0), N(0.0), 0};
    for (int64_t k = 0; k < classes && !skip_absent; ++k) {
      const double targets = value_of(rows(k).targets), weight = targets == 0 ? 0 : weight_of(targets);
      state.weight_of_absent = weight > state.weight_of_absent ? weight : state.weight_of_absent;
    }
    for (int64_t k = 0; k < classes; ++k) {
      const ClassSums<N> row = rows(k);
      const N weight = weight_of(state, row);
      state.overlap = state.overlap + weight * row.overlap;
      state.total = state.total + weight * (row.predictions + row.targets);
    }
    return state;
  }

  template <class N>
  HANDGRAD_MATH N value(const State<N>& state) const {
    return is_empty(state) ? N(0.0) : 1.0 - (2.0 * state.overlap + smooth) / (state.total + smooth);
  }
  template <class N>
  HANDGRAD_MATH ClassSums<N> slope(const State<N>& state, const ClassSums<N>& row) const {
    if (is_empty(state)) return {N(0.0), N(0.0), N(0.0)};
    const N weight = weight_of(state, row), inverse = 1.0 / (state.total + smooth);
    const N score = (2.0 * state.overlap + smooth) * inverse;
    // The weight's derivative with respect to the sum of targets.
    const N bend = value_of(row.targets) == 0 ? N(0.0) : static_cast<double>(-weighting) * weight / row.targets;
    const N of_total = score * inverse;
    return {-2.0 * weight * inverse, weight * of_total,
            weight * of_total + bend * (of_total * (row.predictions + row.targets) - 2.0 * row.overlap * inverse)};
  }

 private:
  template <class N>
  HANDGRAD_MATH bool is_empty(const State<N>& state) const {
    return value_of(state.total) == 0;
  }
  template <class N>
  HANDGRAD_MATH N weight_of(N targets) const {
    if (weighting == 0) return N(1.0);
    return 1.0 / (weighting == 1 ? targets : targets * targets);
  }
  template <class N>
  HANDGRAD_MATH N weight_of(const State<N>& state, const ClassSums<N>& row) const {
    return value_of(row.targets) == 0 ? N(state.weight_of_absent) : weight_of(row.targets);
  }
};

struct GeneralizedDiceLossOp {
  static constexpr const char* name = "generalized_dice_loss";
  using Numbers = std::tuple<int64_t, double, bool>;  // weighting, smooth, skip_absent
  using Formula = GeneralizedDiceLoss;
};

}  // namespace handgrad
