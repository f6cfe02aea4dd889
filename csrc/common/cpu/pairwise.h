// Losses of all pairs of queries and keys on the CPU.
//
// The matrix of pairs never exists: some of its rows are made at a time, by torch's matmul, turned in place into what
// the derivatives are products of, and multiplied with the other side (cpu/pairwise_rows.h has what happens in a row).
// Nothing is saved between passes, so the backward makes the rows again.
//
// All threads work on the same rows of the matrix: products are cut into blocks whose sizes depend on those of the
// matrix alone, and what the rows add to a key is added in their order. So results are the same, to the bit, for any
// number of threads, and there is one gradient of the keys in memory, not one for each thread.
#pragma once

#include <algorithm>

#include "cpu/pairwise_memory.h"
#include "cpu/pairwise_operands.h"
#include "cpu/pairwise_rows.h"

namespace handgrad {

template <class C, PairwiseLoss Loss>
class PairwiseOnCpu {
 public:
  explicit PairwiseOnCpu(const PairwiseOperands& of)
      : of_(of),
        rows_(of.rows()),
        columns_(of.columns()),
        chunk_(rows_at_once(rows_, columns_, kTile, kMostRows)),
        products_(static_cast<size_t>(chunk_ * columns_)) {}

  void forward() {
    each_matrix([&](int64_t b) {
      const DenseRows<C> queries(of_.queries, b), keys(of_.keys, b);
      const Matrix matrix{queries, keys, {}, {}};
      Element element = element_of(b);
      Columns columns(both() ? columns_ : 0, false);
      for_each_chunk(matrix, false, [&](int64_t first, int64_t count) {
        for_each_row(count, [&](int64_t i) {
          losses_[at(first + i)] = value_of_row(element, pairing_, first + i, products(i));
        });
        if (both()) add_columns(columns, element, count);
      });
      for (int64_t j = 0; both() && j < columns_; ++j) {
        losses_[at(j)] += (columns.peaks[at(j)] + std::log(columns.sums[at(j)])) / 2;
      }
      store_losses(b);
    });
  }

  void backward() {
    each_matrix([&](int64_t b) {
      const DenseRows<C> queries(of_.queries, b), keys(of_.keys, b);
      const Matrix matrix{queries, keys, {}, {}};
      const DenseGradient<C> grad_queries(of_.grad_queries, b), grad_keys(of_.grad_keys, b);
      Element element = element_of(b);
      Columns columns(both() ? columns_ : 0, false);
      find_columns(matrix, element, columns, false);
      for_each_chunk(matrix, false, [&](int64_t first, int64_t count) {
        for_each_row(count, [&](int64_t i) {
          Element of_row = element;
          of_row.gradient = gradients_[at(first + i)];
          set_sums(first + i, gradient_of_row(of_row, pairing_, first + i, products(i)));
        });
        multiply(matrix, first, count, false, grad_queries, grad_keys);
      });
      finish(b, grad_queries, grad_keys);
    });
  }

  void double_backward() {
    along_.resize(products_.size());
    each_matrix([&](int64_t b) {
      const DenseRows<C> queries(of_.queries, b), keys(of_.keys, b);
      const DenseRows<C> queries_along = of_.queries_along ? DenseRows<C>(*of_.queries_along, b) : DenseRows<C>();
      const DenseRows<C> keys_along = of_.keys_along ? DenseRows<C>(*of_.keys_along, b) : DenseRows<C>();
      const Matrix matrix{queries, keys, queries_along, keys_along};
      const DenseGradient<C> grad_queries(of_.grad_queries, b), grad_keys(of_.grad_keys, b);
      Element element = element_of(b);
      Columns columns(both() ? columns_ : 0, true);
      find_columns(matrix, element, columns, true);
      for_each_chunk(matrix, true, [&](int64_t first, int64_t count) {
        for_each_row(count, [&](int64_t i) {
          Element of_row = element;
          of_row.gradient = gradients_[at(first + i)];
          const auto sums = second_gradient_of_row(of_row, pairing_, first + i, products(i), along(i));
          set_sums(first + i, sums);
          losses_[at(first + i)] = both() ? sums.loss + columns.moved[at(first + i)] / 2 : sums.loss;
        });
        multiply(matrix, first, count, true, grad_queries, grad_keys);
      });
      store_losses(b);
      finish(b, grad_queries, grad_keys);
    });
  }

 private:
  using Element = PairElement<C, Loss>;
  // Elements of the matrix in memory, its rows in memory, and how its products are cut.
  static constexpr int64_t kTile = int64_t{1} << 21, kMostRows = 256, kColumnBlock = 1024, kRowBlock = 64;

  struct Matrix {
    const DenseRows<C>&queries, &keys;
    const DenseRows<C>&queries_along, &keys_along;
  };
  struct Columns {
    ScratchVector<C> peaks, sums, moved;
    Columns(int64_t columns, bool moves)
        : peaks(at(columns), -std::numeric_limits<C>::infinity()), sums(at(columns)), moved(moves ? at(columns) : 0) {}
    PairColumns<C> operands() { return {peaks.data(), sums.data(), moved.empty() ? nullptr : moved.data()}; }
  };

  static constexpr bool both() { return Loss == PairwiseLoss::both_softmax; }
  static size_t at(int64_t i) { return static_cast<size_t>(i); }
  C* products(int64_t i) { return products_.data() + i * columns_; }
  C* along(int64_t i) { return along_.data() + i * columns_; }

  template <class Work>
  void each_matrix(const Work& work) {
    const size_t count = at(rows_);
    losses_.assign(count, C(0));
    scale_sums_.assign(count, C(0));
    bias_sums_.assign(count, C(0));
    for (int64_t b = 0; b < of_.batch(); ++b) {
      pairing_ = of_.pairing(b);
      load_gradients(b);
      work(b);
    }
    if (of_.losses && of_.reduced) *mutable_stored_view<C, 0>(*of_.losses).first.in_place() = static_cast<C>(total_);
  }

  static C number(const std::optional<Tensor>& tensor, int64_t b) {
    return tensor ? *stored_view<C, 1>(*tensor).at(b).in_place() : C(0);
  }
  Element element_of(int64_t b) {
    Element element{};
    element.scale = number(of_.scale, b), element.bias = number(of_.bias, b);
    element.scale_along = number(of_.scale_along, b), element.bias_along = number(of_.bias_along, b);
    return element;
  }
  void load_gradients(int64_t b) {
    if (!of_.grad_output) return;
    gradients_.resize(at(rows_));
    if (of_.reduced) {
      std::fill(gradients_.begin(), gradients_.end(), *stored_view<C, 0>(*of_.grad_output).first.in_place());
    } else {
      const auto from = stored_view<C, 2>(*of_.grad_output);
      load_run(from.at(b, 0), from.strides[1], rows_, gradients_.data());
    }
  }

  // ---- chunks of rows
  // ------------------------------------------------------------------------------------------------

  // work(task) for all tasks, with matmul on one thread. Always through torch's parallel_for, and never for a single
  // item, which would run outside any parallel region.
  template <class Work>
  static void for_each_task(int64_t tasks, const Work& work) {
    torch::stable::parallel_for(0, std::max<int64_t>(2, tasks), 1, [&](int64_t begin, int64_t end) {
      const OneThreadMatmul one_thread;
      for (int64_t task = begin; task < std::min(end, tasks); ++task) work(task);
    });
  }
  template <class Work>
  void for_each_row(int64_t count, const Work& work) {
    parallel_for(count, columns_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) work(i);
    });
  }
  static int64_t blocks(int64_t count, int64_t block) { return (count + block - 1) / block; }

  // step(first row, rows) with their products in memory, and if something moves how they do.
  template <class Step>
  void for_each_chunk(const Matrix& matrix, bool moves, const Step& step) {
    for (int64_t first = 0; first < rows_; first += chunk_) {
      const int64_t count = std::min(chunk_, rows_ - first);
      for_each_task(blocks(columns_, kColumnBlock), [&](int64_t block) {
        const int64_t begin = block * kColumnBlock, size = std::min(kColumnBlock, columns_ - begin);
        const Tensor keys = matrix.keys.transposed(begin, size), queries = matrix.queries.rows(first, count);
        cpu_matmul(cpu_matrix(products_.data() + begin, count, size, columns_, 1), queries, keys, false);
        if (!moves) return;
        const Tensor moved = cpu_matrix(along_.data() + begin, count, size, columns_, 1);
        const bool first_moves = static_cast<bool>(matrix.queries_along);
        if (first_moves) cpu_matmul(moved, matrix.queries_along.rows(first, count), keys, false);
        if (matrix.keys_along) cpu_matmul(moved, queries, matrix.keys_along.transposed(begin, size), first_moves);
        if (first_moves || matrix.keys_along) return;
        for (int64_t i = 0; i < count; ++i) std::fill_n(along(i) + begin, size, C(0));
      });
      step(first, count);
    }
  }

  void add_columns(Columns& columns, const Element& element, int64_t count) {
    const PairColumns<C> operands = columns.operands();
    constexpr int64_t kRun = 64;
    parallel_for(blocks(columns_, kRun), kRun * count, [&](int64_t begin, int64_t end) {
      operands.add(element, products_.data(), along_.data(), count, columns_, begin * kRun,
                   std::min(end * kRun, columns_));
    });
  }
  // The softmaxes of all columns, which the weights of the first row ask for already.
  void find_columns(const Matrix& matrix, Element& element, Columns& columns, bool moves) {
    if (!both()) return;
    for_each_chunk(matrix, moves, [&](int64_t, int64_t count) { add_columns(columns, element, count); });
    columns.operands().finish(columns_);
    element.gradients = gradients_.data(), element.peaks = columns.peaks.data();
    element.inverses = columns.sums.data(), element.means = columns.moved.data();
  }

  // Adds what these rows give to the gradients: of the queries the matrix times the keys, of the keys its transpose
  // times the queries; and if something moves, the second matrix times their directions.
  void multiply(const Matrix& matrix, int64_t first, int64_t count, bool moves, const DenseGradient<C>& grad_queries,
                const DenseGradient<C>& grad_keys) {
    const bool shared = of_.shared && grad_queries;
    const DenseGradient<C>& to_keys = shared ? grad_queries : grad_keys;
    const int64_t of_keys = to_keys ? blocks(columns_, kColumnBlock) : 0;
    const int64_t of_queries = grad_queries ? blocks(count, kRowBlock) : 0;
    const auto key_block = [&](int64_t block) {
      const int64_t begin = block * kColumnBlock, size = std::min(kColumnBlock, columns_ - begin);
      const Tensor to = to_keys.rows(begin, size);
      cpu_matmul(to, cpu_matrix(products_.data() + begin, size, count, 1, columns_), matrix.queries.rows(first, count),
                 first > 0);
      if (!moves || !matrix.queries_along) return;
      cpu_matmul(to, cpu_matrix(along_.data() + begin, size, count, 1, columns_),
                 matrix.queries_along.rows(first, count), true);
    };
    const auto query_block = [&](int64_t block) {
      const int64_t begin = block * kRowBlock, size = std::min(kRowBlock, count - begin);
      const Tensor to = grad_queries.rows(first + begin, size);
      cpu_matmul(to, cpu_matrix(products(begin), size, columns_, columns_, 1), matrix.keys.rows(0, columns_), shared);
      if (!moves || !matrix.keys_along) return;
      cpu_matmul(to, cpu_matrix(along(begin), size, columns_, columns_, 1), matrix.keys_along.rows(0, columns_), true);
    };
    if (shared) {
      // Both add to the same rows.
      for_each_task(of_keys, key_block);
      for_each_task(of_queries, query_block);
    } else if (of_keys + of_queries > 0) {
      for_each_task(of_keys + of_queries,
                    [&](int64_t task) { task < of_keys ? key_block(task) : query_block(task - of_keys); });
    }
  }

  // ---- sums and results
  // ----------------------------------------------------------------------------------------------

  void set_sums(int64_t row, const PairRowSums<C>& sums) {
    scale_sums_[at(row)] = sums.scale;
    bias_sums_[at(row)] = sums.bias;
  }
  static double sum_of(const ScratchVector<C>& values) {
    double sum = 0;
    for (const C value : values) sum += static_cast<double>(value);
    return sum;
  }
  void store_losses(int64_t b) {
    if (!of_.losses) return;
    if (of_.reduced) {
      total_ += sum_of(losses_);
    } else {
      const auto to = mutable_stored_view<C, 2>(*of_.losses);
      store_run(losses_.data(), rows_, to.at(b, 0), to.strides[1]);
    }
  }
  void finish(int64_t b, const DenseGradient<C>& grad_queries, const DenseGradient<C>& grad_keys) {
    if (rows_ == 0 && grad_keys) grad_keys.clear();
    grad_queries.store();
    grad_keys.store();
    const auto store_sum = [&](const std::optional<Tensor>& to, const ScratchVector<C>& values) {
      if (to) *mutable_stored_view<C, 1>(*to).at(b).in_place() = static_cast<C>(sum_of(values));
    };
    store_sum(of_.grad_scale, scale_sums_);
    store_sum(of_.grad_bias, bias_sums_);
  }

  const PairwiseOperands& of_;
  const int64_t rows_, columns_, chunk_;
  Pairing pairing_{};
  ScratchVector<C> products_, along_;
  ScratchVector<C> gradients_, losses_, scale_sums_, bias_sums_;
  double total_ = 0;
};

// The three passes, as kinds/pairwise_loss.h asks for them.
struct PairwiseLossOnCpu {
  template <PairwiseLoss Loss, class C>
  static void forward(const char*, const PairwiseOperands& of) {
    PairwiseOnCpu<C, Loss>(of).forward();
  }
  template <PairwiseLoss Loss, class C>
  static void backward(const char*, const PairwiseOperands& of) {
    PairwiseOnCpu<C, Loss>(of).backward();
  }
  template <PairwiseLoss Loss, class C>
  static void double_backward(const char*, const PairwiseOperands& of) {
    PairwiseOnCpu<C, Loss>(of).double_backward();
  }
};

}  // namespace handgrad
