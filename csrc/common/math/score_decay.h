// How much of its score an item keeps beside those of higher score that it overlaps, all at once (Wang et al., 2020,
// equations 4 to 6): of item i,
//
//   min over j above i of f(iou(j, i)) / f(cover(j)),   cover(j) = max over k above j of iou(k, j),
//
// at most 1, with f(x) = 1 - x or exp(-sigma x^2). Neither a minimum nor a maximum depends on the order in which it is
// taken, nor on how it is shared out.
#pragma once

#include <limits>
#include <optional>

#include "abi/dtype.h"
#include "math/boxes.h"

namespace handgrad::score_decay {

template <class C, bool Gaussian>
struct Decay {
  C sigma;

  explicit Decay(double sigma) : sigma(static_cast<C>(sigma)) {}

  // A quotient as something whose minimum is the same and that costs no division, nor an exponential, for each pair: of
  // exponents a difference, of 1 - x a product. This is item j's half of it. What is covered wholly lowers none: its
  // relief is infinite.
  HANDGRAD_MATH C relief(C cover) const {
    if constexpr (Gaussian) {
      return rounded_product(cover, cover);
    } else {
      return cover < 1 ? 1 / (1 - cover) : std::numeric_limits<C>::infinity();
    }
  }
  // Of an item that lowers none.
  static constexpr C kUntouched = Gaussian ? C(0) : C(1);
  // By an item with such a relief; NaN, which is smaller than nothing, if both are covered wholly.
  HANDGRAD_MATH C step(C iou, C relief) const {
    if constexpr (Gaussian) {
      return relief - rounded_product(iou, iou);
    } else {
      return (1 - iou) * relief;
    }
  }
  // The part of its score that is left, by the smallest step.
  HANDGRAD_MATH C kept_part(C smallest) const {
    if constexpr (Gaussian) {
      return smallest < 0 ? exp(sigma * smallest) : C(1);
    } else {
      return smallest;
    }
  }
};

// Which items are returned. Where neither limit is set all are, also those whose score is NaN.
template <class C>
struct Limits {
  bool any;
  // Of the score as it came, and of the decayed one.
  C before, after;

  Limits(const std::optional<double>& score_threshold, const std::optional<double>& min_score)
      : any(score_threshold || min_score), before(bound(score_threshold)), after(bound(min_score)) {}

  // Written so that NaN is out.
  HANDGRAD_MATH bool counts(C score) const { return !any || (score >= before && score >= after); }
  HANDGRAD_MATH bool returns(C score, C decayed) const { return !any || (counts(score) && decayed >= after); }

 private:
  static C bound(const std::optional<double>& limit) {
    return limit ? static_cast<C>(*limit) : -std::numeric_limits<C>::infinity();
  }
};

// Of items so many, those with the highest scores, are looked at; so many of the highest lowered scores are returned.
struct Counts {
  int64_t most, returned;
};

// Calls body(tag, decay) with the element type of a tensor and the formula.
template <class Body>
void with_decay(const char* op, const Tensor& model, double sigma, bool gaussian, const Body& body) {
  dispatch_floating(op, model.scalar_type(), [&](auto tag) {
    dispatch_bool(gaussian, [&](auto is_gaussian) {
      using C = Compute<typename decltype(tag)::type>;
      body(tag, Decay<C, decltype(is_gaussian)::value>(sigma));
    });
  });
}

}  // namespace handgrad::score_decay
