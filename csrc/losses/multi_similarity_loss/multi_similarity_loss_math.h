// Multi-similarity loss of one anchor (docs/losses/multi_similarity_loss.md), of the cosines of its pairs:
//
//   log(1 + sum over positives of exp(-alpha (s - base))) / alpha + log(1 + sum over negatives of exp(beta (s - base)))
//   / beta
//
// with mining, of positives less alike than the nearest negative and epsilon, and of negatives more alike than the
// farthest positive less epsilon.
#pragma once

#include <tuple>

#include "math/pair_rows.h"

namespace handgrad::multi_similarity_loss {

struct MultiSimilarity {
  double alpha, beta, base;
  bool mines;
  double epsilon;

  PairMeasure measure() const { return PairMeasure::cosine; }
  bool is_sparse() const { return false; }

  template <bool Derivatives, bool Moves, class Team, class Row>
  HANDGRAD_MATH PairLoss operator()(const Team& team, const Row& row) const {
    const Limits limits = limits_of(team, row);
    if (limits.nothing) {
      if constexpr (Derivatives) {
        team.each(row.count, [&](int64_t j) {
          row.set_slope(j, 0);
          if constexpr (Moves) row.set_slope_rate(j, 0);
        });
      }
      return {0, 1};
    }
    // What each side's largest exponent is; 0 is the 1 in its sum.
    Extreme positive, negative;
    positive.show(0, 0), negative.show(0, 0);
    team.each(row.count, [&](int64_t j) {
      const double s = row.value(j), of_positive = -alpha * (s - base), of_negative = beta * (s - base);
      if (positive.may_be(of_positive) && limits.keeps_positive(row, j, s)) positive.show(of_positive, j + 1);
      if (negative.may_be(of_negative) && limits.keeps_negative(row, j, s)) negative.show(of_negative, j + 1);
    });
    const double top_positive = team.largest(positive).value, top_negative = team.largest(negative).value;
    team.each_alike(row.count, [&](int64_t j) {
      const double s = row.value(j);
      const bool is_positive = row.is_positive(j);
      const double exponent = is_positive ? -alpha * (s - base) - top_positive : beta * (s - base) - top_negative;
      const bool keeps = is_positive ? limits.keeps_positive(row, j, s) : limits.keeps_negative(row, j, s);
      const double power = exp(exponent);
      row.set_slope(j, keeps ? power : 0.0);
    });
    double positives = 0, negatives = 0, positive_rates = 0, negative_rates = 0;
    team.each(row.count, [&](int64_t j) {
      const double power = row.slope(j);
      if (power == 0) return;
      const bool is_positive = row.is_positive(j);
      (is_positive ? positives : negatives) += power;
      if constexpr (Moves) (is_positive ? positive_rates : negative_rates) += power * row.rate(j);
    });
    positives = team.sum(positives) + exp(-top_positive), negatives = team.sum(negatives) + exp(-top_negative);
    if constexpr (Derivatives) {
      const double of_positives = team.sum(positive_rates) / positives;
      const double of_negatives = team.sum(negative_rates) / negatives;
      team.each(row.count, [&](int64_t j) {
        const bool is_positive = row.is_positive(j);
        const double share = row.slope(j) / (is_positive ? positives : negatives);
        row.set_slope(j, is_positive ? -share : share);
        if constexpr (Moves) {
          const double moved = row.rate(j) - (is_positive ? of_positives : of_negatives);
          row.set_slope_rate(j, share == 0 ? 0.0 : (is_positive ? alpha : beta) * share * moved);
        }
      });
    }
    return {(top_positive + ::log(positives)) / alpha + (top_negative + ::log(negatives)) / beta, 1};
  }

 private:
  // Which pairs of an anchor count.
  struct Limits {
    bool mines = false, nothing = false;
    double most_of_positives = 0, least_of_negatives = 0;

    template <class Row>
    HANDGRAD_MATH bool keeps_positive(const Row& row, int64_t j, double s) const {
      return row.is_positive(j) & (!mines | (s < most_of_positives) | (s != s));
    }
    template <class Row>
    HANDGRAD_MATH bool keeps_negative(const Row& row, int64_t j, double s) const {
      return row.is_negative(j) & (!mines | (s > least_of_negatives) | (s != s));
    }
  };

  template <class Team, class Row>
  HANDGRAD_MATH Limits limits_of(const Team& team, const Row& row) const {
    if (!mines) return {};
    Extreme farthest, nearest;
    team.each(row.count, [&](int64_t j) {
      const double s = row.value(j);
      if (farthest.may_be(-s) && row.is_positive(j)) farthest.show(-s, j);
      if (nearest.may_be(s) && row.is_negative(j)) nearest.show(s, j);
    });
    farthest = team.largest(farthest), nearest = team.largest(nearest);
    // Without the other side nothing is hard.
    if (farthest.index < 0 || nearest.index < 0) return {true, true, 0, 0};
    return {true, false, nearest.value + epsilon, -farthest.value - epsilon};
  }
};

}  // namespace handgrad::multi_similarity_loss

namespace handgrad {

struct MultiSimilarityLossOp {
  static constexpr const char* name = "multi_similarity_loss";
  using Numbers = std::tuple<double, double, double, bool, double>;  // alpha, beta, base, mines, epsilon
  using Formula = multi_similarity_loss::MultiSimilarity;

  static Formula formula(double alpha, double beta, double base, bool mines, double epsilon) {
    return {alpha, beta, base, mines, epsilon};
  }
};

}  // namespace handgrad
