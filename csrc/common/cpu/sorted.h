// Losses of sorted errors on the CPU. A class of a group is the work of one thread: its errors are computed, those
// above 0 are listed as integers and sorted by their digits, and each is weighed by how many are larger. Forward sorts
// bare errors, a bit of each saying foreground; the gradient sorts them with their indices, so that equal errors keep
// their order. What a pass allocates is two numbers and a class for each position, and, for each thread, room for two
// lists of a class' errors; the weights of all classes stand where the gradient will.
//
// In order of appearance: SortedClass, a class of a group; SortedLines, all classes of a run; SortedLoops, the passes.
#pragma once

#include "cpu/scratch.h"
#include "cpu/sort.h"
#include "cpu/sorted_runs.h"
#include "math/lovasz.h"

namespace handgrad {

// ---- a class of a group ---------------------------------------------------------------------------------------------

template <class C>
using BitsOf = std::conditional_t<std::is_same_v<C, double>, uint64_t, uint32_t>;

// Keys of errors leave their highest bit, a sign, unused.
template <class C>
HANDGRAD_MATH C error_of_key(BitsOf<C> key) {
  return detail::bits_as<C>(static_cast<BitsOf<C>>(~key & (~BitsOf<C>{0} >> 1)));
}

// The errors of one class at a time, and what becomes of them. A list's item says foreground in its lowest bit.
template <class C, class Formula, class Item>
class SortedClass {
 public:
  explicit SortedClass(const Runs<C, Formula>& runs)
      : runs_(runs),
        items_(uninitialised<Item>(runs.problem().members())),
        moved_(uninitialised<Item>(runs.problem().members())) {}

  // Sorts class c of group g; returns how many errors are above 0.
  int64_t sort(int64_t g, int64_t c) {
    const SortedProblem& problem = runs_.problem();
    const int32_t own = static_cast<int32_t>(c);
    C errors[kSortedRun];
    int64_t listed = 0;
    runs_.for_each_run_of_group([&](int64_t s, int64_t first, int64_t count) {
      const int32_t* const classes = runs_.classes(g, s, first);
      runs_.load_errors(g, s, c, first, count, errors);
      for (int64_t i = 0; i < count; ++i) {
        items_[static_cast<size_t>(listed)] = item(errors[i], s * problem.positions + first + i, classes[i] == own);
        listed += !(errors[i] <= 0);
      }
    });
    foreground_ = runs_.foreground(g, c);
    sorted_ = sort_by_key(items_.get(), moved_.get(), static_cast<size_t>(listed));
    return listed;
  }

  // Room for a number of each position.
  C* line() {
    if (!line_) line_ = uninitialised<C>(runs_.problem().members());
    return line_.get();
  }

  // body(item, weight) from the largest of `listed` errors down.
  template <class Body>
  void weigh(int64_t listed, const Body& body) const {
    int64_t larger_foreground = 0;
    for (int64_t i = 0; i < listed; ++i) {
      const Item& item = sorted_[i];
      const bool own_class = is_foreground(item);
      body(item, lovasz_weight(own_class, larger_foreground, i - larger_foreground, foreground_));
      larger_foreground += own_class;
    }
  }

 private:
  static Item item(C error, [[maybe_unused]] int64_t index, bool own_class) {
    const BitsOf<C> key = descending_key(error);
    if constexpr (std::is_same_v<Item, BitsOf<C>>) {
      return static_cast<Item>(key << 1 | BitsOf<C>{own_class});
    } else {
      return {key, static_cast<uint32_t>(index) << 1 | uint32_t{own_class}};
    }
  }
  static bool is_foreground(const Item& item) {
    if constexpr (std::is_same_v<Item, BitsOf<C>>) {
      return item & 1;
    } else {
      return item.index & 1;
    }
  }

  const Runs<C, Formula>& runs_;
  std::unique_ptr<Item[]> items_, moved_;
  std::unique_ptr<C[]> line_;
  const Item* sorted_ = nullptr;
  int64_t foreground_ = 0;
};

// ---- the passes -----------------------------------------------------------------------------------------------------

// All predictions, weights and directions of a run, one line for each class.
template <class C>
struct SortedLines {
  explicit SortedLines(int64_t classes, bool directed)
      : numbers(static_cast<size_t>((2 + directed) * classes * kSortedRun)),
        p(numbers.data()),
        a(p + classes * kSortedRun),
        v(directed ? a + classes * kSortedRun : nullptr) {}

  ScratchVector<C> numbers;
  C *p, *a, *v;
  // Sums over the classes of a position.
  C mean_a[kSortedRun], mean_v[kSortedRun], product[kSortedRun], out[kSortedRun];
};

template <class C, class Formula>
class SortedLoops {
 public:
  SortedLoops(const char* op, const SortedOperands& operands)
      : operands_(operands), runs_(op, operands), means_(runs_, operands.weight), problem_(operands.problem) {}

  void values() const {
    using Item = BitsOf<C>;
    std::vector<double> losses(static_cast<size_t>(problem_.groups * problem_.classes));
    for_each_class<Item>([&](SortedClass<C, Formula, Item>& sorted, int64_t g, int64_t c) {
      const int64_t listed = sorted.sort(g, c);
      double loss = 0;
      sorted.weigh(listed, [&](Item item, double weight) {
        // An infinite error that nothing is added by would be NaN.
        loss += weight == 0 ? 0 : weight * static_cast<double>(error_of_key<C>(item >> 1));
      });
      losses[static_cast<size_t>(g * problem_.classes + c)] = means_(g, c) * loss;
    });
    store_sums(losses, problem_.classes, *operands_.losses);
  }

  void gradients() const {
    const Weights weights(*this, &*operands_.grad_inputs);
    fill(weights);
    const StoredView<C, 4> results = operands_.grad_inputs->mutable_stored<C>();
    const C* const grad_output = operands_.grad_output->const_data_ptr<C>();
    for_each_run(false, [&](SortedLines<C>& lines, int64_t g, int64_t s, int64_t first, int64_t count) {
      load(lines, weights, g, s, first, count);
      for (int64_t c = 0; c < problem_.classes; ++c) {
        const C *const p = lines.p + c * kSortedRun, *const a = lines.a + c * kSortedRun;
        const int32_t* const classes = runs_.classes(g, s, first);
        const C scale = grad_output[g];
        const bool softmax = problem_.softmax;
        HANDGRAD_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const C slope = softmax ? p[i] * (a[i] - lines.mean_a[i]) : a[i];
          lines.out[i] = classes[i] == kIgnoredClass ? C(0) : scale * slope;
        }
        store_run(lines.out, count, results.at(g, s, c, first), results.strides[3]);
      }
    });
  }

  void second() const {
    const Weights weights(*this, nullptr);
    fill(weights);
    const int64_t runs_of_group = problem_.samples * runs_.runs_of_sample();
    std::vector<double> along(static_cast<size_t>(problem_.groups * runs_of_group));
    for_each_run(true, [&](SortedLines<C>& lines, int64_t g, int64_t s, int64_t first, int64_t count) {
      load(lines, weights, g, s, first, count);
      load_directions(lines, g, s, first, count);
      const int64_t run = (g * problem_.samples + s) * runs_.runs_of_sample() + first / kSortedRun;
      along[static_cast<size_t>(run)] = add_up_directions(lines, runs_.classes(g, s, first), count);
      if (operands_.grad_inputs) store_second(lines, g, s, first, count);
    });
    if (operands_.losses) store_sums(along, runs_of_group, *operands_.losses);
  }

 private:
  // The weight of each error times what its class counts, before a gradient is made of it: in the gradient's memory if
  // that is of C, else in memory of its own.
  struct Weights {
    std::unique_ptr<C[]> own;
    C* data;
    int64_t of_group, of_sample, of_class, of_position;

    Weights(const SortedLoops& loops, const GroupedTensor* result) {
      const SortedProblem& problem = loops.problem_;
      if (result && result->tensor.scalar_type() == kDtype<C>) {
        data = result->tensor.template mutable_data_ptr<C>();
        of_group = result->of_group, of_sample = result->of_sample, of_class = result->of_class;
        of_position = result->of_position;
        return;
      }
      own = uninitialised<C>(problem.numel());
      data = own.get();
      of_position = 1, of_sample = problem.positions, of_class = problem.members();
      of_group = problem.classes * of_class;
    }
    C* at(int64_t g, int64_t s, int64_t c, int64_t p) const {
      return data + g * of_group + s * of_sample + c * of_class + p * of_position;
    }
  };

  // body(sorted, group, class) for every class that counts, each on one thread.
  template <class Item, class Body>
  void for_each_class(const Body& body, const auto& otherwise) const {
    parallel_for(problem_.groups * problem_.classes, 8 * problem_.members(), [&](int64_t begin, int64_t end) {
      SortedClass<C, Formula, Item> sorted(runs_);
      for (int64_t k = begin; k < end; ++k) {
        const int64_t g = k / problem_.classes, c = k % problem_.classes;
        if (means_(g, c) != 0) {
          body(sorted, g, c);
        } else {
          otherwise(g, c);
        }
      }
    });
  }
  template <class Item, class Body>
  void for_each_class(const Body& body) const {
    for_each_class<Item>(body, [](int64_t, int64_t) {});
  }

  template <class Body>
  void for_each_run(bool directed, const Body& body) const {
    runs_.for_each_run_with((directed ? 3 : 2) * problem_.classes,
                            [&] { return SortedLines<C>(problem_.classes, directed); }, body);
  }

  void fill(const Weights& weights) const {
    using Item = Entry<BitsOf<C>>;
    const auto copy = [&](const C* from, int64_t g, int64_t c) {
      for (int64_t s = 0; s < problem_.samples; ++s) {
        store_run(from + s * problem_.positions, problem_.positions, weights.at(g, s, c, 0), weights.of_position);
      }
    };
    const auto zero = [&](int64_t g, int64_t c) {
      const C nothing[kSortedRun] = {};
      runs_.for_each_run_of_group([&](int64_t s, int64_t first, int64_t count) {
        store_run(nothing, count, weights.at(g, s, c, first), weights.of_position);
      });
    };
    const auto weigh = [&](SortedClass<C, Formula, Item>& sorted, int64_t g, int64_t c) {
      C* const line = sorted.line();
      std::fill(line, line + problem_.members(), C(0));
      const double scale = means_(g, c);
      sorted.weigh(sorted.sort(g, c),
                   [&](const Item& item, double weight) { line[item.index >> 1] = static_cast<C>(scale * weight); });
      copy(line, g, c);
    };
    for_each_class<Item>(weigh, zero);
  }

  // Predictions, the weights as gradients with respect to them, and under softmax the mean of these.
  void load(SortedLines<C>& lines, const Weights& weights, int64_t g, int64_t s, int64_t first, int64_t count) const {
    const int32_t* const classes = runs_.classes(g, s, first);
    std::fill(lines.mean_a, lines.mean_a + count, C(0));
    for (int64_t c = 0; c < problem_.classes; ++c) {
      C* __restrict const p = lines.p + c * kSortedRun;
      C* __restrict const a = lines.a + c * kSortedRun;
      runs_.load_predictions(g, s, c, first, count, p);
      load_run(weights.at(g, s, c, first), weights.of_position, count, a);
      const int32_t own = static_cast<int32_t>(c);
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) {
        a[i] *= Formula::slope(p[i], classes[i] == own);
        lines.mean_a[i] += p[i] * a[i];
      }
    }
  }

  void load_directions(SortedLines<C>& lines, int64_t g, int64_t s, int64_t first, int64_t count) const {
    const StoredView<const C, 4> directions = operands_.direction->template stored<C>();
    std::fill(lines.mean_v, lines.mean_v + count, C(0));
    for (int64_t c = 0; c < problem_.classes; ++c) {
      C* __restrict const v = lines.v + c * kSortedRun;
      load_run(directions.at(g, s, c, first), directions.strides[3], count, v);
      if (!problem_.softmax) continue;
      const C* __restrict const p = lines.p + c * kSortedRun;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) lines.mean_v[i] += p[i] * v[i];
    }
  }

  // The derivative of the loss along the directions; and at each position what it is.
  double add_up_directions(SortedLines<C>& lines, const int32_t* classes, int64_t count) const {
    std::fill(lines.product, lines.product + count, C(0));
    for (int64_t c = 0; c < problem_.classes; ++c) {
      const C *const p = lines.p + c * kSortedRun, *const a = lines.a + c * kSortedRun;
      C* __restrict const v = lines.v + c * kSortedRun;
      const bool softmax = problem_.softmax;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) {
        v[i] -= lines.mean_v[i];
        lines.product[i] += (softmax ? p[i] * a[i] : a[i]) * v[i];
      }
    }
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (classes[i] != kIgnoredClass) sum += static_cast<double>(lines.product[i]);
    }
    return sum;
  }

  void store_second(SortedLines<C>& lines, int64_t g, int64_t s, int64_t first, int64_t count) const {
    const StoredView<C, 4> results = operands_.grad_inputs->template mutable_stored<C>();
    const C scale = problem_.softmax ? operands_.grad_output->template const_data_ptr<C>()[g] : C(0);
    const int32_t* const classes = runs_.classes(g, s, first);
    for (int64_t c = 0; c < problem_.classes; ++c) {
      const C *const p = lines.p + c * kSortedRun, *const a = lines.a + c * kSortedRun,
                     *const v = lines.v + c * kSortedRun;
      const bool softmax = problem_.softmax;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < count; ++i) {
        const C bend = p[i] * ((a[i] - lines.mean_a[i]) * v[i] - lines.product[i]);
        lines.out[i] = !softmax || classes[i] == kIgnoredClass ? C(0) : scale * bend;
      }
      store_run(lines.out, count, results.at(g, s, c, first), results.strides[3]);
    }
  }

  // Of each group the sum of its partial sums, in order.
  void store_sums(const std::vector<double>& partial, int64_t of_group, const Tensor& to) const {
    for (int64_t g = 0; g < problem_.groups; ++g) {
      double total = 0;
      for (int64_t k = 0; k < of_group; ++k) total += partial[static_cast<size_t>(g * of_group + k)];
      to.mutable_data_ptr<C>()[g] = static_cast<C>(total);
    }
  }

  const SortedOperands& operands_;
  Runs<C, Formula> runs_;
  ClassMeans means_;
  const SortedProblem& problem_;
};

struct SortedOnCpu {
  template <class C, class Formula>
  static void values(const char* op, const SortedOperands& operands) {
    SortedLoops<C, Formula>(op, operands).values();
  }
  template <class C, class Formula>
  static void gradients(const char* op, const SortedOperands& operands) {
    SortedLoops<C, Formula>(op, operands).gradients();
  }
  template <class C, class Formula>
  static void second(const char* op, const SortedOperands& operands) {
    SortedLoops<C, Formula>(op, operands).second();
  }
};

}  // namespace handgrad
