// What losses of sorted errors are made of on the CPU: the predictions and errors of a few neighbouring positions, and
// by what classes count.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/sorted_operands.h"

namespace handgrad {

// Positions of a run.
inline constexpr int64_t kSortedRun = 256;

// ---- predictions and errors -----------------------------------------------------------------------------------------

// Memory that nothing has been written to.
template <class T>
std::unique_ptr<T[]> uninitialised(int64_t count) {
  return std::make_unique_for_overwrite<T[]>(static_cast<size_t>(count));
}

// The classes of targets, and what makes a softmax of logits: of each position the largest logit and one over the sum
// of the exponentials.
template <class C, class Formula>
class Runs {
 public:
  explicit Runs(const char* op, const SortedOperands& operands)
      : problem_(operands.problem), inputs_(operands.inputs.stored<C>()) {
    const int64_t all = problem_.groups * problem_.members();
    classes_ = uninitialised<int32_t>(all);
    if (problem_.softmax) largest_ = uninitialised<C>(all), scale_ = uninitialised<C>(all);
    const int64_t* const targets = operands.targets.tensor.const_data_ptr<int64_t>();
    std::atomic<int64_t> wrong{kIgnoredClass};
    std::atomic<bool> is_wrong{false};
    const auto nothing = [] { return 0; };
    for_each_run_with(problem_.classes, nothing, [&](int, int64_t g, int64_t s, int64_t first, int64_t count) {
      const int64_t* const line = targets + g * operands.targets.of_group + s * operands.targets.of_sample +
                                  first * operands.targets.of_position;
      int32_t* const found = classes_.get() + at(g, s, first);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t target = line[i * operands.targets.of_position];
        found[i] = class_of_target(target, problem_.classes, problem_.first_class, problem_.ignore_index.has_value(),
                                   problem_.ignore_index.value_or(0));
        if (found[i] == kNoClass) wrong = target, is_wrong = true;
      }
      if (problem_.softmax) find_sums(g, s, first, count);
    });
    HANDGRAD_CHECK(!is_wrong, op, ": targets must be classes, at least 0 and below ",
                   problem_.classes + problem_.first_class, ", or ignore_index; got ", wrong.load());
    count_foreground();
  }

  const SortedProblem& problem() const { return problem_; }
  // How many positions of group g are of class c.
  int64_t foreground(int64_t g, int64_t c) const { return foreground_[static_cast<size_t>(g * problem_.classes + c)]; }
  int64_t at(int64_t g, int64_t s, int64_t p) const { return (g * problem_.samples + s) * problem_.positions + p; }
  const int32_t* classes(int64_t g, int64_t s, int64_t first) const { return classes_.get() + at(g, s, first); }

  // body(state, group, sample, first position, count) for every run, split over threads, each with a state of its own;
  // `lines` of numbers are looked at.
  template <class Make, class Body>
  void for_each_run_with(int64_t lines, const Make& make, const Body& body) const {
    const int64_t runs = runs_of_sample();
    parallel_for(problem_.groups * problem_.samples * runs, kSortedRun * lines, [&](int64_t begin, int64_t end) {
      auto state = make();
      for (int64_t k = begin; k < end; ++k) {
        const int64_t sample = k / runs, first = k % runs * kSortedRun;
        body(state, sample / problem_.samples, sample % problem_.samples, first,
             std::min(kSortedRun, problem_.positions - first));
      }
    });
  }
  // body(sample, first position, count) for every run of a group, in order.
  template <class Body>
  void for_each_run_of_group(const Body& body) const {
    for (int64_t s = 0; s < problem_.samples; ++s) {
      for (int64_t first = 0; first < problem_.positions; first += kSortedRun) {
        body(s, first, std::min(kSortedRun, problem_.positions - first));
      }
    }
  }
  int64_t runs_of_sample() const { return (problem_.positions + kSortedRun - 1) / kSortedRun; }

  void load_predictions(int64_t g, int64_t s, int64_t c, int64_t first, int64_t count, C* __restrict to) const {
    load_run(inputs_.at(g, s, c, first), inputs_.strides[3], count, to);
    if (!problem_.softmax) return;
    const C* __restrict const largest = largest_.get() + at(g, s, first);
    const C* __restrict const scale = scale_.get() + at(g, s, first);
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = exp_decay(largest[i] - to[i]) * scale[i];
  }
  void load_errors(int64_t g, int64_t s, int64_t c, int64_t first, int64_t count, C* __restrict to) const {
    load_predictions(g, s, c, first, count, to);
    const int32_t* __restrict const classes = this->classes(g, s, first);
    const int32_t own = static_cast<int32_t>(c);
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) {
      const C error = Formula::error(to[i], classes[i] == own);
      to[i] = classes[i] == kIgnoredClass ? C(0) : error;
    }
  }

 private:
  void find_sums(int64_t g, int64_t s, int64_t first, int64_t count) {
    C line[kSortedRun];
    C* __restrict const largest = largest_.get() + at(g, s, first);
    C* __restrict const sum = scale_.get() + at(g, s, first);
    std::fill(largest, largest + count, -std::numeric_limits<C>::infinity());
    std::fill(sum, sum + count, C(0));
    for (int64_t c = 0; c < problem_.classes; ++c) {
      load_run(inputs_.at(g, s, c, first), inputs_.strides[3], count, line);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) largest[i] = line[i] > largest[i] ? line[i] : largest[i];
    }
    for (int64_t c = 0; c < problem_.classes; ++c) {
      load_run(inputs_.at(g, s, c, first), inputs_.strides[3], count, line);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) sum[i] += exp_decay(largest[i] - line[i]);
    }
    HANDGRAD_SIMD
    for (int64_t i = 0; i < count; ++i) sum[i] = 1 / sum[i];
  }

  void count_foreground() {
    foreground_.resize(static_cast<size_t>(problem_.groups * problem_.classes));
    parallel_for(problem_.groups, problem_.members(), [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const int32_t* const classes = this->classes(g, 0, 0);
        int64_t* const counts = foreground_.data() + g * problem_.classes;
        for (int64_t i = 0; i < problem_.members(); ++i) {
          if (classes[i] >= 0) ++counts[classes[i]];
        }
      }
    });
  }

  SortedProblem problem_;
  StoredView<const C, 4> inputs_;
  std::unique_ptr<int32_t[]> classes_;
  std::vector<int64_t> foreground_;
  std::unique_ptr<C[]> largest_, scale_;
};

// ---- what classes count
// -----------------------------------------------------------------------------------------------

// By what the loss of each class of each group is multiplied in the mean over classes; 0 for one that does not count.
class ClassMeans {
 public:
  template <class Runs>
  ClassMeans(const Runs& runs, const std::optional<Tensor>& weight) : classes_(runs.problem().classes) {
    const SortedProblem& problem = runs.problem();
    scale_.resize(static_cast<size_t>(problem.groups * classes_));
    for (int64_t g = 0; g < problem.groups; ++g) {
      double* const of_group = scale_.data() + g * classes_;
      double total = 0;
      for (int64_t c = 0; c < classes_; ++c) {
        const bool counts = !problem.skip_absent || runs.foreground(g, c) > 0;
        total += of_group[c] = !counts ? 0 : weight ? number(*weight, c) : 1;
      }
      for (int64_t c = 0; c < classes_ && total != 0; ++c) of_group[c] /= total;
    }
  }

  double operator()(int64_t g, int64_t c) const { return scale_[static_cast<size_t>(g * classes_ + c)]; }

 private:
  static double number(const Tensor& weight, int64_t c) {
    const Tensor& numbers = weight;
    if (numbers.scalar_type() == ScalarType::Double) return numbers.const_data_ptr<double>()[c];
    return static_cast<double>(numbers.const_data_ptr<float>()[c]);
  }

  int64_t classes_;
  std::vector<double> scale_;
};

}  // namespace handgrad
