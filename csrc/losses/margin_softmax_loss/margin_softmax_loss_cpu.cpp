// Margin softmax loss on the CPU.
//
// The matrix of cosines, embeddings times classes, is made tile by tile (common/cpu/product_tiles.h) by torch's matmul
// in memory of a thread: a tile's rows are summed in the forward, and in the derivatives become, in place, the loss'
// derivatives with respect to the cosines, which two further products take to the embeddings and to the weight. Classes
// are brought to length 1 tile by tile too, so that no copy of the weight exists.
//
// Where lanes are made of classes, each class' gradient is finished by its lane, and what lanes contribute to the
// embeddings is added in their order; where they are made of rows, the other way round.
//
// In order of appearance: Walk, the passes over tiles; OnCpu; the registration.
#include "cpu/product_tiles.h"
#include "cpu/unit_rows.h"
#include "kinds/formula.h"
#include "margin_softmax_loss_host.h"
#include "margin_softmax_loss_rows.h"
#include "margin_softmax_loss_targets.h"

namespace handgrad::margin_softmax_loss {
namespace {

template <class C>
class Walk {
 public:
  Walk(const Problem& problem, const Derivatives& tensors)
      : problem_(problem),
        tensors_(tensors),
        width_(problem.width),
        scale_(static_cast<C>(problem.margin.scale)),
        tiles_(problem.rows, problem.classes * problem.centres, problem.centres),
        weight_(row_table<C>(problem.weight)),
        v_embeddings_(row_table<C>(tensors.direction_embeddings)),
        v_weight_(row_table<C>(tensors.direction_weight)),
        rows_(problem, tensors),
        units_(rows_.units()),
        targets_(rows_.targets()),
        losses_(static_cast<size_t>(problem.rows)),
        slopes_(static_cast<size_t>(problem.rows)) {}

  void store_losses(const Tensor& losses) {
    sum_others<false>();
    C* const to = losses.mutable_data_ptr<C>();
    for (size_t i = 0; i < targets_.size(); ++i) to[i] = static_cast<C>(losses_[i]);
  }

  void backward() {
    const Stored<const C> losses = column(*tensors_.losses), grads = column(*tensors_.grad_output);
    const int64_t step = tensors_.losses->strides()[0], grad_step = tensors_.grad_output->strides()[0];
    for (int64_t i = 0; i < problem_.rows; ++i) {
      slopes_[static_cast<size_t>(i)] = RowSlopes<C>(targets_[static_cast<size_t>(i)], number(losses, i * step), 0,
                                                     number(grads, i * grad_step), problem_.margin.scale);
    }
    differentiate<false>();
  }

  void double_backward() {
    sum_others<true>();
    const Stored<const C> grads = column(*tensors_.grad_output);
    const int64_t grad_step = tensors_.grad_output->strides()[0];
    for (int64_t i = 0; i < problem_.rows; ++i) {
      const size_t n = static_cast<size_t>(i);
      if (tensors_.grad_grad_output) tensors_.grad_grad_output->mutable_data_ptr<C>()[i] = static_cast<C>(rates_[n]);
      slopes_[n] =
          RowSlopes<C>(targets_[n], losses_[n], rates_[n], number(grads, i * grad_step), problem_.margin.scale);
    }
    if (tensors_.has_gradients()) differentiate<true>();
  }

 private:
  // One thread's memory for a tile.
  struct Memory {
    UnitRows<C> classes;
    ScratchVector<C> cosines, rates;
    Nearest<C> nearest;

    Memory(const Walk& walk, bool moves)
        : classes(walk.tiles_.columns.size, walk.width_, moves && walk.v_weight_),
          cosines(static_cast<size_t>(walk.tiles_.numbers_of_tile())),
          rates(moves ? cosines.size() : 0),
          nearest(walk.tiles_.columns.size / walk.problem_.centres, walk.problem_.centres) {}
  };
  // Gradients of unit vectors, and how they move, of some rows or columns.
  struct Sums {
    ScratchVector<C> gradient, rate;

    void reset(int64_t count, bool moves) {
      gradient.assign(static_cast<size_t>(count), C(0));
      if (moves) rate.assign(static_cast<size_t>(count), C(0));
    }
    void add(const Sums& other) {
      for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += other.gradient[i];
      for (size_t i = 0; i < rate.size(); ++i) rate[i] += other.rate[i];
    }
    C* rates() { return rate.empty() ? nullptr : rate.data(); }
  };

  static Stored<const C> column(const Tensor& tensor) {
    return {static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor.scalar_type()};
  }
  static double number(const Stored<const C>& from, int64_t offset) {
    return static_cast<double>(from.in_place()[offset]);
  }

  // ---- cosines of a tile
  // -------------------------------------------------------------------------------------------------------

  void load_classes(const ProductTile& tile, bool moves, Memory& memory) const {
    memory.classes.load(weight_, moves ? v_weight_ : RowTable<const C>{}, tile.first_column, tile.columns);
  }

  template <bool Moves>
  void make_cosines(const ProductTile& tile, Memory& memory) const {
    const Tensor classes = cpu_columns(memory.classes.unit(0), tile.columns, width_);
    const Tensor units = cpu_rows(units_.unit(tile.first_row), tile.rows, width_);
    cpu_matmul(cpu_rows(memory.cosines.data(), tile.rows, tile.columns), units, classes, false);
    if constexpr (Moves) {
      const Tensor rates = cpu_rows(memory.rates.data(), tile.rows, tile.columns);
      if (v_embeddings_) {
        cpu_matmul(rates, cpu_rows(units_.rate(tile.first_row), tile.rows, width_), classes, false);
      }
      if (v_weight_) {
        cpu_matmul(rates, units, cpu_columns(memory.classes.rate(0), tile.columns, width_),
                   static_cast<bool>(v_embeddings_));
      }
    }
  }

  // body(lane, tile) for all tiles, with their classes loaded.
  template <class Before, class Body, class After>
  void for_each_tile(bool moves, const Before& before, const Body& body, const After& after) {
    for_each_lane(tiles_, [&](int64_t lane, int64_t first, int64_t last) {
      Memory memory(*this, moves);
      for (int64_t outer = first; outer < last; ++outer) {
        before(lane, tiles_.tile(outer, 0));
        for (int64_t inner = 0; inner < tiles_.inner_count(); ++inner) {
          const ProductTile tile = tiles_.tile(outer, inner);
          if (!tiles_.of_columns || inner == 0) load_classes(tile, moves, memory);
          body(lane, tile, memory);
        }
        after(lane, tiles_.tile(outer, 0), memory);
      }
    });
  }

  // ---- forward
  // -------------------------------------------------------------------------------------------------------

  template <bool Moves>
  void sum_others() {
    const int64_t rows = problem_.rows, lanes = tiles_.of_columns ? tiles_.lanes : 1;
    std::vector<Others> others(static_cast<size_t>(lanes * rows));
    const auto nothing = [](auto&&...) {};
    for_each_tile(
        Moves, nothing,
        [&](int64_t lane, const ProductTile& tile, Memory& memory) {
          make_cosines<Moves>(tile, memory);
          const int64_t of_lane = tiles_.of_columns ? lane * rows : 0, centres = problem_.centres;
          for (int64_t r = 0; r < tile.rows; ++r) {
            const int64_t i = tile.first_row + r, column = targets_[static_cast<size_t>(i)].column;
            if (column < 0) continue;
            memory.nearest.find(memory.cosines.data() + r * tile.columns,
                                Moves ? memory.rates.data() + r * tile.columns : nullptr, tile.columns / centres);
            const int64_t target = column / centres - tile.first_column / centres;
            add_others<C, Moves>(memory.nearest.cosines(), memory.nearest.rates(), tile.columns / centres, target,
                                 problem_.margin.scale, others[static_cast<size_t>(of_lane + i)]);
          }
        },
        nothing);
    if (Moves) rates_.assign(static_cast<size_t>(rows), 0.0);
    for (int64_t i = 0; i < rows; ++i) {
      const size_t n = static_cast<size_t>(i);
      if (targets_[n].column < 0) continue;
      Others& of_row = others[n];
      for (int64_t lane = 1; lane < lanes; ++lane) {
        of_row.merge(others[static_cast<size_t>(lane * rows + i)], problem_.margin.scale);
      }
      losses_[n] = loss_of(of_row, targets_[n], problem_.margin.scale);
      if (Moves) rates_[n] = rate_of(of_row, targets_[n], losses_[n], problem_.margin.scale);
    }
  }

  // ---- derivatives
  // -------------------------------------------------------------------------------------------------------

  template <bool Moves>
  void differentiate() {
    // Of the outer side a lane's tile, of the inner side all of it for each lane.
    std::vector<Sums> outer(static_cast<size_t>(tiles_.lanes)), inner(outer.size());
    const bool by_classes = tiles_.of_columns;
    const bool of_outer = by_classes ? tensors_.grad_weight.has_value() : tensors_.grad_embeddings.has_value();
    const bool of_inner = by_classes ? tensors_.grad_embeddings.has_value() : tensors_.grad_weight.has_value();
    if (of_inner) {
      for (Sums& sums : inner) sums.reset(tiles_.inner().count * width_, Moves);
    }
    for_each_tile(
        Moves,
        [&](int64_t lane, const ProductTile&) {
          if (of_outer) outer[static_cast<size_t>(lane)].reset(tiles_.outer().size * width_, Moves);
        },
        [&](int64_t lane, const ProductTile& tile, Memory& memory) {
          make_cosines<Moves>(tile, memory);
          make_slopes<Moves>(tile, memory);
          Sums &own = outer[static_cast<size_t>(lane)], &shared = inner[static_cast<size_t>(lane)];
          if (tensors_.grad_embeddings) {
            add_to_embeddings<Moves>(tile, memory, by_classes ? shared : own, by_classes ? tile.first_row : 0);
          }
          if (tensors_.grad_weight) {
            add_to_weight<Moves>(tile, memory, by_classes ? own : shared, by_classes ? 0 : tile.first_column);
          }
        },
        [&](int64_t lane, const ProductTile& tile, Memory& memory) {
          if (!of_outer) return;
          Sums& own = outer[static_cast<size_t>(lane)];
          if (by_classes) {
            memory.classes.store(mutable_row_table<C>(*tensors_.grad_weight), tile.first_column, tile.columns, 0,
                                 own.gradient.data(), own.rates());
          } else {
            store_embeddings(tile.first_row, tile.rows, own, 0);
          }
        });
    if (!of_inner) return;
    for (size_t lane = 1; lane < inner.size(); ++lane) inner[0].add(inner[lane]);
    if (by_classes) {
      store_embeddings(0, problem_.rows, inner[0], 0);
    } else {
      store_weight<Moves>(inner[0]);
    }
  }

  template <bool Moves>
  void make_slopes(const ProductTile& tile, Memory& memory) const {
    const int64_t centres = problem_.centres;
    for (int64_t r = 0; r < tile.rows; ++r) {
      const RowSlopes<C>& row = slopes_[static_cast<size_t>(tile.first_row + r)];
      slopes_of_row<C, Moves>(row, scale_, tile.columns / centres, row.column - tile.first_column, memory.nearest,
                              memory.cosines.data() + r * tile.columns,
                              Moves ? memory.rates.data() + r * tile.columns : nullptr);
    }
  }

  template <bool Moves>
  void add_to_embeddings(const ProductTile& tile, const Memory& memory, Sums& sums, int64_t first) const {
    const int64_t offset = first * width_;
    const Tensor slopes = cpu_rows(memory.cosines.data(), tile.rows, tile.columns);
    const Tensor classes = cpu_rows(memory.classes.unit(0), tile.columns, width_);
    cpu_matmul(cpu_rows(sums.gradient.data() + offset, tile.rows, width_), slopes, classes, true);
    if constexpr (Moves) {
      const Tensor rate = cpu_rows(sums.rate.data() + offset, tile.rows, width_);
      cpu_matmul(rate, cpu_rows(memory.rates.data(), tile.rows, tile.columns), classes, true);
      if (v_weight_) cpu_matmul(rate, slopes, cpu_rows(memory.classes.rate(0), tile.columns, width_), true);
    }
  }

  template <bool Moves>
  void add_to_weight(const ProductTile& tile, const Memory& memory, Sums& sums, int64_t first) const {
    const int64_t offset = first * width_;
    const Tensor slopes = cpu_columns(memory.cosines.data(), tile.rows, tile.columns);
    const Tensor units = cpu_rows(units_.unit(tile.first_row), tile.rows, width_);
    cpu_matmul(cpu_rows(sums.gradient.data() + offset, tile.columns, width_), slopes, units, true);
    if constexpr (Moves) {
      const Tensor rate = cpu_rows(sums.rate.data() + offset, tile.columns, width_);
      cpu_matmul(rate, cpu_columns(memory.rates.data(), tile.rows, tile.columns), units, true);
      if (v_embeddings_) cpu_matmul(rate, slopes, cpu_rows(units_.rate(tile.first_row), tile.rows, width_), true);
    }
  }

  void store_embeddings(int64_t first, int64_t count, Sums& sums, int64_t from) const {
    units_.store(mutable_row_table<C>(*tensors_.grad_embeddings), first, count, first, sums.gradient.data() + from,
                 sums.rate.empty() ? nullptr : sums.rate.data() + from);
  }

  template <bool Moves>
  void store_weight(Sums& sums) const {
    const RowTable<C> to = mutable_row_table<C>(*tensors_.grad_weight);
    const int64_t columns = tiles_.columns.count;
    parallel_for(columns, width_, [&](int64_t first, int64_t last) {
      UnitRows<C> unit(1, width_, Moves && v_weight_);
      for (int64_t c = first; c < last; ++c) {
        unit.load(weight_, Moves ? v_weight_ : RowTable<const C>{}, c, 1);
        unit.store(to, c, 1, 0, sums.gradient.data() + c * width_,
                   sums.rate.empty() ? nullptr : sums.rate.data() + c * width_);
      }
    });
  }

  const Problem& problem_;
  const Derivatives& tensors_;
  const int64_t width_;
  const C scale_;
  const ProductTiles tiles_;
  const RowTable<const C> weight_, v_embeddings_, v_weight_;
  const Rows<C> rows_;
  const UnitRows<C>& units_;
  const std::vector<Target>& targets_;
  std::vector<double> losses_, rates_;
  std::vector<RowSlopes<C>> slopes_;
};

struct OnCpu {
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

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  using Of = handgrad::margin_softmax_loss::Entries<handgrad::margin_softmax_loss::OnCpu>;
  handgrad::implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, "margin_softmax_loss");
}
