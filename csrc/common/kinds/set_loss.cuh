// Losses of sets of labelled embeddings on CUDA devices: kinds/set_loss.h says what they are. Chunks of anchors, one
// after the other: torch's matmul makes their products with all vectors, a warp takes a row of them, and two further
// products take its derivatives to the vectors. What chunks contribute is added in their order.
#pragma once

#include "cuda/matmul.cuh"
#include "cuda/pair_rows.cuh"
#include "kinds/set_loss.h"

namespace handgrad {

template <class C, class Formula, bool Derivatives, bool Moves>
class SetOnDevice {
 public:
  SetOnDevice(const set_loss::SetTensors& tensors, const Formula& formula)
      : tensors_(tensors),
        formula_(formula),
        measure_(formula.measure()),
        device_(tensors.embeddings),
        count_(tensors.embeddings.sizes()[0]),
        width_(tensors.embeddings.sizes()[1]),
        rows_(std::clamp<int64_t>(kChunkBytes / static_cast<int64_t>(sizeof(C)) / std::max<int64_t>(1, count_), 1,
                                  std::max<int64_t>(1, count_))),
        vectors_(count_, width_, Moves, tensors.embeddings),
        squares_(empty_vector<double>(4 * count_, tensors.embeddings)) {
    const RowTable<const C> table = row_table<C>(tensors.embeddings), v = row_table<C>(tensors.directions);
    if (measure_ == PairMeasure::cosine) {
      launch("set_loss_units", unit_rows_kernel<C>, device_, blocks_of_warps(count_), table, v, LeftOut{}, int64_t{0},
             count_, vectors_.view());
      return;
    }
    centre(table, vectors_.units);
    if (v) centre(v, *vectors_.rates);
    launch("set_loss_squares", squares_kernel<C>, device_, blocks_of_warps(count_), squares());
  }

  void run() {
    if (count_ == 0) return;
    const Memory memory(*this);
    if (tensors_.grad_embeddings) {
      fill_zero(*memory.gradient);
      if (Moves) fill_zero(*memory.rate);
      fill_zero(*memory.squares);
    }
    for (int64_t first = 0; first < count_; first += rows_) take(first, std::min(rows_, count_ - first), memory);
    if (tensors_.grad_embeddings) finish(memory);
  }

 private:
  static constexpr int64_t kChunkBytes = int64_t{32} << 20;

  struct Memory {
    Tensor values;
    std::optional<Tensor> rates, slopes, slope_rates, gradient, rate, squares;

    explicit Memory(const SetOnDevice& of) : values(empty_vector<C>(of.rows_ * of.count_, of.tensors_.embeddings)) {
      const Tensor& like = of.tensors_.embeddings;
      const int64_t numbers = of.rows_ * of.count_;
      slopes = empty_vector<C>(numbers, like);
      if (Moves) rates = empty_vector<C>(numbers, like), slope_rates = empty_vector<C>(numbers, like);
      if (!of.tensors_.grad_embeddings) return;
      gradient = empty_vector<C>(of.count_ * of.width_, like);
      if (Moves) rate = empty_vector<C>(of.count_ * of.width_, like);
      squares = empty_vector<double>(2 * of.count_, like);
    }
    static C* data(const std::optional<Tensor>& tensor) {
      return tensor ? tensor->template mutable_data_ptr<C>() : nullptr;
    }
  };

  Squares<C> squares() const {
    double* const memory = squares_.mutable_data_ptr<double>();
    return {vectors_.units.template const_data_ptr<C>(),
            vectors_.rates ? vectors_.rates->template const_data_ptr<C>() : nullptr,
            memory,
            memory + count_,
            count_,
            width_};
  }

  void centre(const RowTable<const C>& table, const Tensor& to) const {
    if (count_ == 0) return;
    const Tensor mean = empty_vector<double>(width_, tensors_.embeddings);
    launch("set_loss_mean", mean_row_kernel<C>, device_, blocks_for(width_, kUnitThreads), table, count_,
           mean.mutable_data_ptr<double>());
    launch("set_loss_centred", centred_rows_kernel<C>, device_, blocks_of_warps(count_), table, count_,
           mean.const_data_ptr<double>(), to.mutable_data_ptr<C>());
  }

  Tensor matrix(const Tensor& memory, int64_t rows, int64_t columns, bool transposed = false) const {
    return device_matrices<C>(memory, 1, rows, columns, transposed);
  }
  // Rows of dense vectors.
  Tensor rows_of(const Tensor& memory, int64_t first, int64_t rows) const {
    Tensor whole = memory;
    return matrix(torch::stable::narrow(whole, 0, first * width_, rows * width_), rows, width_);
  }

  void take(int64_t first, int64_t rows, const Memory& memory) const {
    const Tensor all = matrix(vectors_.units, width_, count_, true), own = rows_of(vectors_.units, first, rows);
    device_matmul(matrix(memory.values, rows, count_), own, all, false);
    if constexpr (Moves) {
      const Tensor rates = matrix(*memory.rates, rows, count_);
      device_matmul(rates, rows_of(*vectors_.rates, first, rows), all, false);
      device_matmul(rates, own, matrix(*vectors_.rates, width_, count_, true), true);
    }
    double* const sums = memory.squares ? memory.squares->template mutable_data_ptr<double>() : nullptr;
    const PairChunk<C> chunk{Memory::data(memory.values),
                             Memory::data(memory.rates),
                             Memory::data(memory.slopes),
                             Memory::data(memory.slope_rates),
                             first,
                             rows,
                             count_,
                             tensors_.labels.template const_data_ptr<int64_t>(),
                             view<C, 2>(tensors_.grad_output),
                             Memory::data(tensors_.output),
                             tensors_.grad_embeddings.has_value(),
                             sums,
                             sums ? sums + count_ : nullptr};
    launch("set_loss_rows", pair_rows_kernel<C, Formula, Derivatives, Moves>, device_, blocks_of_warps(rows), chunk,
           squares(), formula_, measure_);
    if (!tensors_.grad_embeddings) return;
    if (measure_ != PairMeasure::cosine) {
      launch("set_loss_columns", pair_columns_kernel<C>, device_, blocks_for(count_, kUnitThreads), chunk);
    }
    add_products(*memory.slopes, vectors_.units, first, rows, *memory.gradient);
    if constexpr (Moves) {
      add_products(*memory.slope_rates, vectors_.units, first, rows, *memory.rate);
      add_products(*memory.slopes, *vectors_.rates, first, rows, *memory.rate);
    }
  }

  void add_products(const Tensor& slopes, const Tensor& vectors, int64_t first, int64_t rows, const Tensor& to) const {
    device_matmul(rows_of(to, first, rows), matrix(slopes, rows, count_), matrix(vectors, count_, width_), true);
    device_matmul(matrix(to, count_, width_), matrix(slopes, count_, rows, true), rows_of(vectors, first, rows), true);
  }

  void finish(const Memory& memory) const {
    const C* const h = memory.gradient->template const_data_ptr<C>();
    const C* const h_rate = Memory::data(memory.rate);
    const RowTable<C> to = mutable_row_table<C>(*tensors_.grad_embeddings);
    if (measure_ == PairMeasure::cosine) {
      launch("set_loss_project", project_rows_kernel<C>, device_, blocks_of_warps(count_), vectors_.view(), h, h_rate,
             int64_t{0}, count_, to);
      return;
    }
    const double* const sums = memory.squares->template const_data_ptr<double>();
    launch("set_loss_store", store_distances_kernel<C>, device_, blocks_of_warps(count_), squares(), h, h_rate, sums,
           sums + count_, to);
  }

  const set_loss::SetTensors& tensors_;
  const Formula& formula_;
  const PairMeasure measure_;
  const DeviceOf device_;
  const int64_t count_, width_, rows_;
  const UnitRowsMemory<C> vectors_;
  const Tensor squares_;
};

struct SetsOnCuda {
  template <class Formula>
  static void run(const char* op, const set_loss::SetTensors& tensors, const Formula& formula) {
    dispatch_compute(op, tensors.embeddings.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      for (int64_t set = 0; set < tensors.sets(); ++set) {
        const set_loss::SetTensors of = set_loss::of_set(tensors, set);
        if (of.directions) {
          SetOnDevice<C, Formula, true, true>(of, formula).run();
        } else if (of.grad_output) {
          SetOnDevice<C, Formula, true, false>(of, formula).run();
        } else {
          SetOnDevice<C, Formula, false, false>(of, formula).run();
        }
      }
    });
  }
};

}  // namespace handgrad
