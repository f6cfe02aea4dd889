// Margin softmax loss on CUDA devices: chunks of classes, one after the other. Of each chunk the classes are brought to
// length 1, torch's matmul makes the cosines of all rows, and a kernel adds them to the rows' sums, or replaces them by
// the loss' derivatives, which two further products take to the embeddings and to the chunk of the weight.
#include "abi/registration.h"
#include "cuda/matmul.cuh"
#include "kinds/formula.h"
#include "margin_softmax_loss_kernels.cuh"

namespace handgrad::margin_softmax_loss {
namespace {

// Bytes of a chunk's cosines, and of its classes.
constexpr int64_t kChunkBytes = int64_t{64} << 20;

inline Tensor structs(int64_t count, size_t bytes, const Tensor& like) {
  return empty_indices(count * static_cast<int64_t>((bytes + 7) / 8), like);
}
template <class T>
T* as_structs(const Tensor& memory) {
  return reinterpret_cast<T*>(memory.mutable_data_ptr<int64_t>());
}

template <class C>
class Walk {
 public:
  Walk(const Problem& problem, const Derivatives& tensors)
      : problem_(problem),
        tensors_(tensors),
        device_(problem.embeddings),
        scale_(problem.margin.scale),
        columns_(chunk_of(problem)),
        weight_(row_table<C>(problem.weight)),
        v_embeddings_(row_table<C>(tensors.direction_embeddings)),
        v_weight_(row_table<C>(tensors.direction_weight)),
        units_(problem.rows, problem.width, static_cast<bool>(v_embeddings_), problem.embeddings),
        targets_(structs(problem.rows, sizeof(Target), problem.embeddings)) {
    const View<const int64_t, 1> targets = view<int64_t, 1>(problem.targets);
    launch("margin_softmax_loss_units", unit_rows_kernel<C>, device_, blocks_of_warps(problem.rows),
           row_table<C>(problem.embeddings), v_embeddings_, LeftOut{targets, problem.ignore_index}, int64_t{0},
           problem.rows, units_.view());
    launch("margin_softmax_loss_targets", find_targets_kernel<C>, device_, blocks_of_warps(problem.rows),
           TargetOperands<C>{targets, problem.ignore_index, problem.classes, problem.centres, problem.rows,
                             problem.margin, units_.view(), weight_, v_weight_},
           as_structs<Target>(targets_));
  }

  void store_losses(const Tensor& losses) { sum_others<false>(losses.mutable_data_ptr<C>(), nullptr, nullptr); }

  void backward() {
    make_slopes_of_rows(view<C, 1>(*tensors_.losses), nullptr);
    differentiate<false>();
  }

  void double_backward() {
    const Tensor wide = empty_vector<double>(2 * problem_.rows, problem_.embeddings);
    sum_others<true>(nullptr, tensors_.grad_grad_output ? tensors_.grad_grad_output->mutable_data_ptr<C>() : nullptr,
                     wide.mutable_data_ptr<double>());
    if (!tensors_.has_gradients()) return;
    make_slopes_of_rows({}, wide.const_data_ptr<double>());
    differentiate<true>();
  }

 private:
  // Columns of a chunk, all centres of some classes.
  static int64_t chunk_of(const Problem& problem) {
    const int64_t numbers = std::max<int64_t>(1, std::max(problem.rows, problem.width));
    const int64_t most = kChunkBytes / static_cast<int64_t>(sizeof(C)) / numbers;
    return std::clamp<int64_t>(most / problem.centres, 1, problem.classes) * problem.centres;
  }

  // Memory for a chunk.
  struct Memory {
    UnitRowsMemory<C> classes;
    Tensor cosines;
    std::optional<Tensor> rates;

    Memory(const Walk& walk, bool moves)
        : classes(walk.columns_, walk.problem_.width, moves && walk.v_weight_, walk.problem_.embeddings),
          cosines(empty_vector<C>(walk.problem_.rows * walk.columns_, walk.problem_.embeddings)) {
      if (moves) rates = empty_vector<C>(walk.problem_.rows * walk.columns_, walk.problem_.embeddings);
    }
  };

  template <bool Moves, class Body>
  void for_each_chunk(const Body& body) {
    if (problem_.rows == 0) return;
    const Memory memory(*this, Moves);
    const int64_t columns = problem_.classes * problem_.centres;
    for (int64_t first = 0; first < columns; first += columns_) {
      const Chunk<C> chunk{memory.cosines.template mutable_data_ptr<C>(),
                           memory.rates ? memory.rates->template mutable_data_ptr<C>() : nullptr,
                           problem_.rows,
                           first,
                           std::min(columns_, columns - first),
                           problem_.centres};
      launch("margin_softmax_loss_classes", unit_rows_kernel<C>, device_, blocks_of_warps(chunk.columns), weight_,
             Moves ? v_weight_ : RowTable<const C>{}, LeftOut{}, first, chunk.columns, memory.classes.view());
      make_cosines<Moves>(chunk, memory);
      body(chunk, memory);
    }
  }

  Tensor matrix(const Tensor& memory, int64_t rows, int64_t columns, bool transposed = false) const {
    return device_matrices<C>(memory, 1, rows, columns, transposed);
  }

  template <bool Moves>
  void make_cosines(const Chunk<C>& chunk, const Memory& memory) const {
    const int64_t width = problem_.width;
    const Tensor units = matrix(units_.units, chunk.rows, width);
    const Tensor classes = matrix(memory.classes.units, width, chunk.columns, true);
    device_matmul(matrix(memory.cosines, chunk.rows, chunk.columns), units, classes, false);
    if constexpr (Moves) {
      const Tensor rates = matrix(*memory.rates, chunk.rows, chunk.columns);
      if (units_.rates) device_matmul(rates, matrix(*units_.rates, chunk.rows, width), classes, false);
      if (memory.classes.rates) {
        device_matmul(rates, units, matrix(*memory.classes.rates, width, chunk.columns, true),
                      units_.rates.has_value());
      }
    }
  }

  template <bool Moves>
  void sum_others(C* losses, C* rates, double* wide) {
    const Tensor others = structs(problem_.rows, sizeof(Others), problem_.embeddings);
    for_each_chunk<Moves>([&](const Chunk<C>& chunk, const Memory&) {
      launch("margin_softmax_loss_others", add_others_kernel<C, Moves>, device_,
             Blocks{chunk.rows, dim3(kThreads, 1, 1)}, chunk, as_structs<Target>(targets_), scale_, chunk.first == 0,
             as_structs<Others>(others));
    });
    launch("margin_softmax_loss", row_losses_kernel<C>, device_, blocks_for(problem_.rows, kThreads), problem_.rows,
           as_structs<Target>(targets_), as_structs<Others>(others), scale_, losses, rates, wide);
  }

  void make_slopes_of_rows(const View<const C, 1>& losses, const double* wide) {
    slopes_ = structs(problem_.rows, sizeof(RowSlopes<C>), problem_.embeddings);
    launch("margin_softmax_loss_row_slopes", row_slopes_kernel<C>, device_, blocks_for(problem_.rows, kThreads),
           problem_.rows, as_structs<Target>(targets_), losses, wide, view<C, 1>(*tensors_.grad_output), scale_,
           as_structs<RowSlopes<C>>(*slopes_));
  }

  // Gradients of unit vectors, and how they move.
  struct Sums {
    std::optional<Tensor> gradient, rate;

    Sums(bool wanted, bool moves, int64_t numbers, const Tensor& like) {
      if (wanted) gradient = empty_vector<C>(numbers, like);
      if (wanted && moves) rate = empty_vector<C>(numbers, like);
    }
    const C* rates() const { return rate ? rate->template const_data_ptr<C>() : nullptr; }
  };

  template <bool Moves>
  void differentiate() {
    const int64_t width = problem_.width;
    const Sums of_rows(tensors_.grad_embeddings.has_value(), Moves, problem_.rows * width, problem_.embeddings);
    const Sums of_chunk(tensors_.grad_weight.has_value(), Moves, columns_ * width, problem_.embeddings);
    if (problem_.rows == 0 && tensors_.grad_weight) fill_zero(*tensors_.grad_weight);
    for_each_chunk<Moves>([&](const Chunk<C>& chunk, const Memory& memory) {
      const int64_t classes = chunk.columns / chunk.centres;
      const int64_t pieces = std::clamp<int64_t>(classes / (4 * kThreads), 1, 64);
      launch("margin_softmax_loss_slopes", slopes_kernel<C, Moves>, device_,
             Blocks{chunk.rows * pieces, dim3(kThreads, 1, 1)}, chunk, as_structs<RowSlopes<C>>(*slopes_),
             static_cast<C>(scale_), pieces);
      if (of_rows.gradient) add_to_embeddings<Moves>(chunk, memory, of_rows);
      if (of_chunk.gradient) store_weight<Moves>(chunk, memory, of_chunk);
    });
    if (of_rows.gradient) {
      launch("margin_softmax_loss_embeddings", project_rows_kernel<C>, device_, blocks_of_warps(problem_.rows),
             units_.view(), of_rows.gradient->template const_data_ptr<C>(), of_rows.rates(), int64_t{0}, problem_.rows,
             mutable_row_table<C>(*tensors_.grad_embeddings));
    }
  }

  template <bool Moves>
  void add_to_embeddings(const Chunk<C>& chunk, const Memory& memory, const Sums& sums) const {
    const bool later = chunk.first > 0;
    const Tensor slopes = matrix(memory.cosines, chunk.rows, chunk.columns);
    const Tensor classes = matrix(memory.classes.units, chunk.columns, problem_.width);
    device_matmul(matrix(*sums.gradient, chunk.rows, problem_.width), slopes, classes, later);
    if constexpr (Moves) {
      const Tensor rate = matrix(*sums.rate, chunk.rows, problem_.width);
      device_matmul(rate, matrix(*memory.rates, chunk.rows, chunk.columns), classes, later);
      if (memory.classes.rates) {
        device_matmul(rate, slopes, matrix(*memory.classes.rates, chunk.columns, problem_.width), true);
      }
    }
  }

  template <bool Moves>
  void store_weight(const Chunk<C>& chunk, const Memory& memory, const Sums& sums) const {
    const Tensor slopes = matrix(memory.cosines, chunk.columns, chunk.rows, true);
    const Tensor units = matrix(units_.units, chunk.rows, problem_.width);
    device_matmul(matrix(*sums.gradient, chunk.columns, problem_.width), slopes, units, false);
    if constexpr (Moves) {
      const Tensor rate = matrix(*sums.rate, chunk.columns, problem_.width);
      device_matmul(rate, matrix(*memory.rates, chunk.columns, chunk.rows, true), units, false);
      if (units_.rates) device_matmul(rate, slopes, matrix(*units_.rates, chunk.rows, problem_.width), true);
    }
    launch("margin_softmax_loss_weight", project_rows_kernel<C>, device_, blocks_of_warps(chunk.columns),
           memory.classes.view(), sums.gradient->template const_data_ptr<C>(), sums.rates(), chunk.first, chunk.columns,
           mutable_row_table<C>(*tensors_.grad_weight));
  }

  const Problem& problem_;
  const Derivatives& tensors_;
  const DeviceOf device_;
  const double scale_;
  const int64_t columns_;
  const RowTable<const C> weight_, v_embeddings_, v_weight_;
  const UnitRowsMemory<C> units_;
  const Tensor targets_;
  std::optional<Tensor> slopes_;
};

struct OnCuda {
  template <class Body>
  static void walk(const Problem& problem, const Derivatives& tensors, const Body& body) {
    dispatch_compute(kOp, problem.dtype(), [&](auto tag) {
      Walk<typename decltype(tag)::type> walk(problem, tensors);
      body(walk);
    });
  }
  static void forward(const Problem& problem, const Tensor& losses) {
    walk(problem, {}, [&](auto& on) { on.store_losses(losses); });
  }
  static void backward(const Problem& problem, const Derivatives& tensors) {
    walk(problem, tensors, [](auto& on) { on.backward(); });
  }
  static void double_backward(const Problem& problem, const Derivatives& tensors) {
    walk(problem, tensors, [](auto& on) { on.double_backward(); });
  }
};

}  // namespace
}  // namespace handgrad::margin_softmax_loss

STABLE_TORCH_LIBRARY_IMPL(handgrad, HANDGRAD_DEVICE_KEY, library) {
  using Of = handgrad::margin_softmax_loss::Entries<handgrad::margin_softmax_loss::OnCuda>;
  handgrad::implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, "margin_softmax_loss");
}
