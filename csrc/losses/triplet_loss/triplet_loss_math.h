// Triplet loss of one anchor (docs/losses/triplet_loss.md): f(d_ap - d_an + margin), or without a margin its softened
// form, of its hardest triplet or of all of them.
#pragma once

#include <tuple>

#include "abi/check.h"
#include "math/pair_rows.h"

namespace handgrad::triplet_loss {

enum class Mining : int64_t { hard = 0, all = 1, all_positive = 2 };

// f, its slope and its curvature at x = d_ap - d_an: max(0, x + margin), or log(1 + e^x).
struct Hinge {
  double margin;
  bool soft;

  HANDGRAD_MATH double value(double x) const {
    if (soft) return x > 0 ? x + ::log1p(::exp(-x)) : ::log1p(::exp(x));
    const double above = x + margin;
    return above > 0 || above != above ? above : 0;
  }
  HANDGRAD_MATH double slope(double x) const {
    if (soft) return 1 / (1 + ::exp(-x));
    const double above = x + margin;
    return above > 0 ? 1 : above != above ? above : 0;
  }
  HANDGRAD_MATH double curvature(double x) const {
    if (!soft) return 0;
    const double s = 1 / (1 + ::exp(-absolute_of(x)));
    return s * (1 - s);
  }

 private:
  HANDGRAD_MATH static double absolute_of(double x) { return x < 0 ? -x : x; }
};

struct Triplets {
  Hinge hinge;
  Mining mining;
  PairMeasure of_pairs;

  PairMeasure measure() const { return of_pairs; }
  // Whether most derivatives of a row are 0.
  bool is_sparse() const { return mining == Mining::hard; }

  // slopes, and with Moves how they move, are written where Derivatives says so.
  template <bool Derivatives, bool Moves, class Team, class Row>
  HANDGRAD_MATH PairLoss operator()(const Team& team, const Row& row) const {
    if constexpr (Derivatives) {
      team.each(row.count, [&](int64_t j) {
        row.set_slope(j, 0);
        if constexpr (Moves) row.set_slope_rate(j, 0);
      });
    }
    return mining == Mining::hard ? hardest<Derivatives, Moves>(team, row) : all<Derivatives, Moves>(team, row);
  }

 private:
  template <bool Derivatives, bool Moves, class Team, class Row>
  HANDGRAD_MATH PairLoss hardest(const Team& team, const Row& row) const {
    Extreme farthest, nearest;
    team.each(row.count, [&](int64_t j) {
      const double x = row.value(j);
      if (farthest.may_be(x) && row.is_positive(j)) farthest.show(x, j);
      if (nearest.may_be(-x) && row.is_negative(j)) nearest.show(-x, j);
    });
    farthest = team.largest(farthest), nearest = team.largest(nearest);
    const int64_t p = farthest.index, n = nearest.index;
    if (p < 0 || n < 0) return {};
    const double x = farthest.value + nearest.value;
    if constexpr (Derivatives) {
      const double slope = hinge.slope(x);
      double curved = 0;
      if constexpr (Moves) {
        curved = hinge.curvature(x) * (row.rate(p) - row.rate(n));
      }
      // Each is written by the thread of the team that has cleared it.
      team.each(row.count, [&](int64_t j) {
        if (j != p && j != n) return;
        const double sign = j == p ? 1 : -1;
        row.set_slope(j, sign * slope);
        if constexpr (Moves) row.set_slope_rate(j, sign * curved);
      });
    }
    return {hinge.value(x), 1};
  }

  template <bool Derivatives, bool Moves, class Team, class Row>
  HANDGRAD_MATH PairLoss all(const Team& team, const Row& row) const {
    double loss = 0, terms = 0;
    for (int64_t p = 0; p < row.count; ++p) {
      if (!row.is_positive(p)) continue;
      const double far = row.value(p);
      double slopes = 0, slope_rates = 0;
      team.each(row.count, [&](int64_t n) {
        if (!row.is_negative(n)) return;
        const double x = far - row.value(n), value = hinge.value(x);
        loss += value;
        terms += mining == Mining::all || value > 0 || value != value ? 1 : 0;
        if constexpr (Derivatives) {
          const double slope = hinge.slope(x);
          slopes += slope;
          row.set_slope(n, row.slope(n) - slope);
          if constexpr (Moves) {
            const double moved = row.rate(p) - row.rate(n);
            const double curved = hinge.curvature(x) * moved;
            slope_rates += curved;
            row.set_slope_rate(n, row.slope_rate(n) - curved);
          }
        }
      });
      if constexpr (Derivatives) {
        slopes = team.sum(slopes), slope_rates = team.sum(slope_rates);
        team.each(row.count, [&](int64_t j) {
          if (j != p) return;
          row.set_slope(p, slopes);
          if constexpr (Moves) row.set_slope_rate(p, slope_rates);
        });
      }
    }
    return {team.sum(loss), team.sum(terms)};
  }
};

}  // namespace handgrad::triplet_loss

namespace handgrad {

struct TripletLossOp {
  static constexpr const char* name = "triplet_loss";
  using Numbers = std::tuple<double, bool, int64_t, bool>;  // margin, soft, mining, squared
  using Formula = triplet_loss::Triplets;

  static Formula formula(double margin, bool soft, int64_t mining, bool squared) {
    HANDGRAD_CHECK(mining >= 0 && mining <= 2, name, ": mining must be 0 (hard), 1 (all) or 2 (all_positive); got ",
                   mining);
    return {{margin, soft},
            static_cast<triplet_loss::Mining>(mining),
            squared ? PairMeasure::squared_distance : PairMeasure::distance};
  }
};

}  // namespace handgrad
