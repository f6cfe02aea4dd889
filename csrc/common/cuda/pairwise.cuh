// Losses of all pairs of queries and keys on CUDA devices: torch's matmul makes some rows of the matrix at a time, and
// multiplies what the kernels of cuda/pairwise_rows.cuh make of them with the other side. cpu/pairwise.h has the same
// on the CPU.
#pragma once

#include "cpu/pairwise_operands.h"
#include "cuda/launch.cuh"
#include "cuda/matmul.cuh"
#include "cuda/pairwise_rows.cuh"

namespace handgrad {

// One matrix of a batch in dense rows of C: memory, and the element in it that is the first. In place where it lies so,
// otherwise in scratch memory.
template <class C>
struct DeviceRows {
  std::optional<Tensor> memory;
  int64_t first = 0, features = 0;

  Tensor rows(int64_t begin, int64_t count) const {
    return device_matrices<C>(*memory, 1, count, features, false, first + begin * features);
  }
  Tensor transposed(int64_t count) const { return device_matrices<C>(*memory, 1, features, count, true, first); }
  explicit operator bool() const { return memory.has_value(); }
};

template <class C, PairwiseLoss Loss>
class PairwiseOnCuda {
 public:
  PairwiseOnCuda(const char* op, const PairwiseOperands& of)
      : op_(op),
        of_(of),
        device_(of.queries),
        rows_(of.rows()),
        columns_(of.columns()),
        features_(of.features()),
        chunk_(rows_at_once(rows_, columns_, kTile, kMostRows)),
        products_(empty_vector<C>(chunk_ * columns_, of.queries)) {}

  void forward() {
    const Tensor losses = losses_or_scratch();
    each_matrix([&](int64_t b) {
      const Matrix matrix{read(of_.queries, b), read(of_.keys, b), {}, {}};
      PairwiseRows<C> rows = operands(b);
      rows.losses = at(losses, b * rows_);
      const Columns columns(*this, false);
      columns.set(rows);
      for_each_chunk(matrix, rows, false, [&] {
        launch_rows<PairwisePass::value>(rows);
        add_columns(rows, rows.losses);
      });
    });
    store_losses(losses);
  }

  void backward() {
    set_sums();
    each_matrix([&](int64_t b) {
      const Matrix matrix{read(of_.queries, b), read(of_.keys, b), {}, {}};
      const Gradient grad_queries = gradient(of_.grad_queries, b), grad_keys = gradient(of_.grad_keys, b);
      PairwiseRows<C> rows = operands(b);
      const Columns columns(*this, false);
      columns.set(rows);
      if (both()) for_each_chunk(matrix, rows, false, [&] { add_columns(rows, nullptr); });
      for_each_chunk(matrix, rows, false, [&] {
        launch_rows<PairwisePass::gradient>(rows);
        multiply(matrix, rows, false, grad_queries, grad_keys);
      });
      store(grad_queries, b);
      store(grad_keys, b);
    });
    store_sums();
  }

  void double_backward() {
    const Tensor losses = losses_or_scratch();
    along_ = empty_vector<C>(chunk_ * columns_, of_.queries);
    set_sums();
    each_matrix([&](int64_t b) {
      const Matrix matrix{read(of_.queries, b), read(of_.keys, b), read(of_.queries_along, b), read(of_.keys_along, b)};
      const Gradient grad_queries = gradient(of_.grad_queries, b), grad_keys = gradient(of_.grad_keys, b);
      PairwiseRows<C> rows = operands(b);
      rows.losses = at(losses, b * rows_);
      const Columns columns(*this, true);
      columns.set(rows);
      if (both()) for_each_chunk(matrix, rows, true, [&] { add_columns(rows, nullptr); });
      for_each_chunk(matrix, rows, true, [&] {
        launch_rows<PairwisePass::second_gradient>(rows);
        multiply(matrix, rows, true, grad_queries, grad_keys);
      });
      store(grad_queries, b);
      store(grad_keys, b);
    });
    store_losses(losses);
    store_sums();
  }

 private:
  // Elements of the matrix in memory, and its rows in memory.
  static constexpr int64_t kTile = int64_t{1} << 22, kMostRows = 512;
  static constexpr bool both() { return Loss == PairwiseLoss::both_softmax; }

  struct Matrix {
    DeviceRows<C> queries, keys, queries_along, keys_along;
  };
  struct Gradient {
    DeviceRows<C> rows;
    std::optional<Tensor> narrow_to;  // where rows are of another type
  };
  struct Columns {
    std::optional<Tensor> peaks, sums, means;
    Columns(const PairwiseOnCuda& in, bool moves) {
      if (!both()) return;
      peaks = empty_vector<C>(in.columns_, in.of_.queries), sums = empty_vector<C>(in.columns_, in.of_.queries);
      if (moves) means = empty_vector<C>(in.columns_, in.of_.queries);
    }
    void set(PairwiseRows<C>& rows) const {
      rows.peaks = at(peaks, 0), rows.inverses = at(sums, 0), rows.means = at(means, 0);
    }
  };

  static C* at(const std::optional<Tensor>& tensor, int64_t first) {
    return tensor ? const_cast<C*>(static_cast<const C*>(tensor->const_data_ptr())) + first : nullptr;
  }
  // Of a tensor of one number for each matrix.
  static const C* number(const std::optional<Tensor>& tensor, int64_t b) {
    return tensor ? at(tensor, b * tensor->strides()[0]) : nullptr;
  }

  template <class Work>
  void each_matrix(const Work& work) {
    for (int64_t b = 0; b < of_.batch(); ++b) work(b);
  }
  PairwiseRows<C> operands(int64_t b) {
    PairwiseRows<C> rows{};
    rows.pairing = of_.pairing(b);
    rows.scale = number(of_.scale, b), rows.bias = number(of_.bias, b);
    rows.scale_along = number(of_.scale_along, b), rows.bias_along = number(of_.bias_along, b);
    if (of_.grad_output) {
      // In dense memory, so that a step is all that a kernel is told.
      if (!dense_gradients_) {
        dense_gradients_ =
            of_.grad_output->is_contiguous() ? *of_.grad_output : torch::stable::contiguous(*of_.grad_output);
      }
      rows.gradients = at(dense_gradients_, of_.reduced ? 0 : b * rows_);
      rows.gradient_step = of_.reduced ? 0 : 1;
    }
    rows.products = at(products_, 0), rows.along = at(along_, 0);
    rows.scale_sums = at(scale_sums_, b * rows_), rows.bias_sums = at(bias_sums_, b * rows_);
    return rows;
  }

  // ---- memory
  // --------------------------------------------------------------------------------------------------------

  DeviceRows<C> read(const std::optional<Tensor>& tensor, int64_t b) {
    if (!tensor) return {};
    const int64_t count = tensor->sizes()[1] * features_;
    if (tensor->is_contiguous() && tensor->scalar_type() == kDtype<C>) return {*tensor, b * count, features_};
    const auto from = stored_view<C, 3>(*tensor);
    const StoredView<const C, 2> matrix{from.at(b, 0, 0), {from.strides[1], from.strides[2]}};
    const Tensor wide = empty_vector<C>(count, *tensor);
    launch(op_, pairwise_widen_kernel<C>, device_, blocks_for(count, kRowThreads), matrix, count, features_,
           at(wide, 0));
    return {wide, 0, features_};
  }
  Gradient gradient(const std::optional<Tensor>& tensor, int64_t b) {
    if (!tensor) return {};
    const int64_t count = tensor->sizes()[1] * features_;
    Gradient made{{*tensor, b * count, features_}, {}};
    if (tensor->scalar_type() != kDtype<C>) {
      made.rows = {empty_vector<C>(count, *tensor), 0, features_};
      made.narrow_to = *tensor;
    }
    // Without queries there are no products, and what is not written is not zero.
    if (rows_ == 0) fill_zero(*tensor);
    return made;
  }
  void store(const Gradient& gradient, int64_t b) {
    if (!gradient.narrow_to || rows_ == 0) return;
    const int64_t count = gradient.narrow_to->sizes()[1] * features_;
    launch(op_, pairwise_narrow_kernel<C>, device_, blocks_for(count, kRowThreads),
           static_cast<const C*>(at(gradient.rows.memory, 0)), count,
           mutable_stored_view<C, 3>(*gradient.narrow_to).at(b, 0, 0));
  }

  // ---- chunks of rows
  // ------------------------------------------------------------------------------------------------

  // step() with the products of rows [rows.first, rows.first + rows.count) in memory, and if something moves how they
  // do.
  template <class Step>
  void for_each_chunk(const Matrix& matrix, PairwiseRows<C>& rows, bool moves, const Step& step) {
    for (rows.first = 0; rows.first < rows_; rows.first += chunk_) {
      rows.count = std::min(chunk_, rows_ - rows.first);
      const Tensor keys = matrix.keys.transposed(columns_), queries = matrix.queries.rows(rows.first, rows.count);
      device_matmul(device_matrices<C>(products_, 1, rows.count, columns_), queries, keys, false);
      if (moves) {
        const Tensor moved = device_matrices<C>(*along_, 1, rows.count, columns_);
        const bool first_moves = static_cast<bool>(matrix.queries_along);
        if (first_moves) device_matmul(moved, matrix.queries_along.rows(rows.first, rows.count), keys, false);
        if (matrix.keys_along) device_matmul(moved, queries, matrix.keys_along.transposed(columns_), first_moves);
        if (!first_moves && !matrix.keys_along) fill_zero(*along_);
      }
      step();
    }
  }
  template <PairwisePass Pass>
  void launch_rows(const PairwiseRows<C>& rows) {
    launch(op_, pairwise_rows_kernel<C, Loss, Pass>, device_, {rows.count, dim3(kRowThreads, 1, 1)}, rows);
  }
  void add_columns(const PairwiseRows<C>& rows, C* losses) {
    if constexpr (both()) {
      launch(op_, pairwise_columns_kernel<C>, device_, blocks_for(columns_, kRowThreads), rows, rows.first == 0,
             rows.first + rows.count == rows_, losses);
    }
  }

  // Adds what these rows give to the gradients: of the queries the matrix times the keys, of the keys its transpose
  // times the queries; and if something moves, the second matrix times their directions.
  void multiply(const Matrix& matrix, const PairwiseRows<C>& rows, bool moves, const Gradient& grad_queries,
                const Gradient& grad_keys) {
    const bool shared = of_.shared && grad_queries.rows;
    const DeviceRows<C>& to_keys = shared ? grad_queries.rows : grad_keys.rows;
    if (to_keys) {
      const Tensor to = to_keys.rows(0, columns_);
      device_matmul(to, device_matrices<C>(products_, 1, columns_, rows.count, true),
                    matrix.queries.rows(rows.first, rows.count), rows.first > 0);
      if (moves && matrix.queries_along) {
        device_matmul(to, device_matrices<C>(*along_, 1, columns_, rows.count, true),
                      matrix.queries_along.rows(rows.first, rows.count), true);
      }
    }
    if (grad_queries.rows) {
      const Tensor to = grad_queries.rows.rows(rows.first, rows.count);
      device_matmul(to, device_matrices<C>(products_, 1, rows.count, columns_), matrix.keys.rows(0, columns_), shared);
      if (moves && matrix.keys_along) {
        device_matmul(to, device_matrices<C>(*along_, 1, rows.count, columns_), matrix.keys_along.rows(0, columns_),
                      true);
      }
    }
  }

  // ---- sums and results
  // ----------------------------------------------------------------------------------------------

  Tensor losses_or_scratch() const {
    const bool direct = of_.losses && !of_.reduced;
    return direct ? *of_.losses : empty_vector<C>(of_.batch() * rows_, of_.queries);
  }
  void store_losses(const Tensor& losses) {
    if (of_.losses && of_.reduced) sum(losses, 1, of_.batch() * rows_, *of_.losses);
  }
  void set_sums() {
    scale_sums_ = empty_vector<C>(of_.batch() * rows_, of_.queries);
    bias_sums_ = empty_vector<C>(of_.batch() * rows_, of_.queries);
  }
  void store_sums() {
    if (of_.grad_scale) sum(*scale_sums_, of_.batch(), rows_, *of_.grad_scale);
    if (of_.grad_bias) sum(*bias_sums_, of_.batch(), rows_, *of_.grad_bias);
  }
  void sum(const Tensor& values, int64_t sums, int64_t count, const Tensor& to) {
    launch(op_, pairwise_sum_kernel<C>, device_, {sums, dim3(kSumThreads, 1, 1)}, static_cast<const C*>(at(values, 0)),
           count, at(to, 0));
  }

  const char* op_;
  const PairwiseOperands& of_;
  const DeviceOf device_;
  const int64_t rows_, columns_, features_, chunk_;
  const Tensor products_;
  std::optional<Tensor> along_, scale_sums_, bias_sums_, dense_gradients_;
};

// The three passes, as kinds/pairwise_loss.h asks for them.
struct PairwiseLossOnCuda {
  template <PairwiseLoss Loss, class C>
  static void forward(const char* op, const PairwiseOperands& of) {
    PairwiseOnCuda<C, Loss>(op, of).forward();
  }
  template <PairwiseLoss Loss, class C>
  static void backward(const char* op, const PairwiseOperands& of) {
    PairwiseOnCuda<C, Loss>(op, of).backward();
  }
  template <PairwiseLoss Loss, class C>
  static void double_backward(const char* op, const PairwiseOperands& of) {
    PairwiseOnCuda<C, Loss>(op, of).double_backward();
  }
};

}  // namespace handgrad
