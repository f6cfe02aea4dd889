// The rows of a margin softmax loss on the CPU: embeddings brought to length 1, and the target of each, with its
// margin.
#pragma once

#include "cpu/parallel.h"
#include "cpu/unit_rows.h"
#include "margin_softmax_loss_host.h"

namespace handgrad::margin_softmax_loss {

template <class C>
class Rows {
 public:
  Rows(const Problem& problem, const Derivatives& tensors)
      : problem_(problem),
        weight_(row_table<C>(problem.weight)),
        v_weight_(row_table<C>(tensors.direction_weight)),
        units_(problem.rows, problem.width, tensors.direction_embeddings.has_value()),
        targets_(static_cast<size_t>(problem.rows)) {
    const int64_t* const classes = problem.targets.template const_data_ptr<int64_t>();
    const int64_t step = problem.targets.strides()[0];
    for (int64_t i = 0; i < problem.rows; ++i) check(classes[i * step]);
    const RowTable<const C> embeddings = row_table<C>(problem.embeddings);
    const RowTable<const C> directions = row_table<C>(tensors.direction_embeddings);
    parallel_for(problem.rows, problem.width * (2 + problem.centres), [&](int64_t first, int64_t last) {
      UnitRows<C> centre(1, problem.width, static_cast<bool>(v_weight_));
      for (int64_t i = first; i < last; ++i) {
        targets_[static_cast<size_t>(i)] = {kIgnored, {0, 0, 0}, 0};
        if (classes[i * step] == problem.ignore_index) {
          units_.clear(i);
          continue;
        }
        units_.load(embeddings, directions, i, 1, i);
        find(i, classes[i * step], centre, targets_[static_cast<size_t>(i)]);
      }
    });
  }
  const UnitRows<C>& units() const { return units_; }
  const std::vector<Target>& targets() const { return targets_; }

 private:
  void check(int64_t c) const {
    HANDGRAD_CHECK(c == problem_.ignore_index || (c >= 0 && c < problem_.classes), kOp,
                   ": targets must be at least 0 and below ", problem_.classes, ", the number of classes, or ",
                   "ignore_index, ", problem_.ignore_index, "; got ", c);
  }

  // In double, so that near a cosine of 1 something is left of the angle.
  void find(int64_t i, int64_t c, UnitRows<C>& centre, Target& target) const {
    const int64_t width = problem_.width;
    const C *const unit = units_.unit(i), *const of_centre = centre.unit(0);
    // Unit vectors have length 1 but for rounding.
    const double squared = dot_row(unit, unit, width);
    double nearest = 0;
    for (int64_t k = 0; k < problem_.centres; ++k) {
      const int64_t column = c * problem_.centres + k;
      centre.load(weight_, {}, column, 1);
      const double both = squared * dot_row(of_centre, of_centre, width);
      const double cosine = both == 0 ? 0 : dot_row(unit, of_centre, width) / std::sqrt(both);
      if (k > 0 && !(cosine > nearest) && !(cosine != cosine && nearest == nearest)) continue;
      nearest = cosine;
      target.column = column;
    }
    target.margin = problem_.margin.at(nearest);
    if (!units_.moves() && !v_weight_) return;
    centre.load(weight_, v_weight_, target.column, 1);
    if (units_.moves()) target.rate += dot_row(units_.rate(i), of_centre, width);
    if (v_weight_) target.rate += dot_row(unit, centre.rate(0), width);
  }

  const Problem& problem_;
  const RowTable<const C> weight_, v_weight_;
  UnitRows<C> units_;
  std::vector<Target> targets_;
};

}  // namespace handgrad::margin_softmax_loss
