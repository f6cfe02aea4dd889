// Losses of sets of labelled embeddings on the CPU: kinds/set_loss.h says what they are. A lane takes chunks of anchors
// one after the other, and what it contributes to vectors stands in memory of its own, which is added in the lanes'
// order: the same bits for any number of threads.
#pragma once

#include "cpu/product_tiles.h"
#include "cpu/unit_rows.h"
#include "kinds/set_loss.h"

namespace handgrad {

// The vectors of a set, dense, with their squared lengths, and how all move.
template <class C>
class SetVectors {
 public:
  SetVectors(const set_loss::SetTensors& tensors, PairMeasure measure)
      : count_(tensors.embeddings.sizes()[0]),
        width_(tensors.embeddings.sizes()[1]),
        units_(measure == PairMeasure::cosine ? count_ : 0, width_, tensors.directions.has_value()) {
    const RowTable<const C> table = row_table<C>(tensors.embeddings), v = row_table<C>(tensors.directions);
    // A table of no numbers has no address.
    const bool moves = tensors.directions.has_value();
    if (measure == PairMeasure::cosine) {
      units_.load(table, v, 0, count_);
      return;
    }
    load_centred(table, vectors_);
    if (moves) load_centred(v, rates_);
    squared_.resize(static_cast<size_t>(count_));
    squared_rates_.resize(static_cast<size_t>(moves ? count_ : 0));
    for (int64_t i = 0; i < count_; ++i) {
      squared_[static_cast<size_t>(i)] = dot_row(vector(i), vector(i), width_);
      if (moves) squared_rates_[static_cast<size_t>(i)] = 2 * dot_row(vector(i), rate(i), width_);
    }
  }
  const C* vector(int64_t i) const { return squared_.empty() ? units_.unit(i) : vectors_.data() + i * width_; }
  const C* rate(int64_t i) const { return squared_.empty() ? units_.rate(i) : rates_.data() + i * width_; }

  // From the products of a row to its distances, or their squares; and how they move.
  template <bool Moves>
  void measure_row(PairMeasure measure, int64_t i, C* values, C* rates) const {
    const double own = squared_[static_cast<size_t>(i)];
    const double own_rate = Moves ? squared_rates_[static_cast<size_t>(i)] : 0;
    int64_t near = 0;
    _Pragma("omp simd reduction(+ : near)") for (int64_t j = 0; j < count_; ++j) {
      near += Pair{static_cast<double>(values[j]), own, squared_.data()[j], 0, 0, 0}.is_near();
    }
    const auto store = [&](int64_t j, const Measured& squared) {
      const Measured pair = measured(measure, squared.value, squared.rate);
      values[j] = static_cast<C>(pair.value);
      if constexpr (Moves) rates[j] = static_cast<C>(pair.rate);
    };
    // Every sample is near itself.
    if (near > 1) {
      for (int64_t j = 0; j < count_; ++j) store(j, squared_distance(i, j, values[j], Moves ? rates[j] : C(0)));
      return;
    }
    HANDGRAD_SIMD
    for (int64_t j = 0; j < count_; ++j) {
      const double other_rate = Moves ? squared_rates_.data()[j] : 0;
      const double rate = Moves ? static_cast<double>(rates[j]) : 0;
      const Pair pair{static_cast<double>(values[j]), own, squared_.data()[j], rate, own_rate, other_rate};
      store(j, {pair.squared_distance(), pair.squared_distance_rate()});
    }
    store(i, {0, 0});
  }

  // From the gradients of vectors to those of embeddings, or to their change; `squares` are the derivatives with
  // respect to squared lengths.
  void store(const Tensor& to, C* h, C* h_rate, const double* squares, const double* square_rates) const {
    const RowTable<C> table = mutable_row_table<C>(to);
    if (squared_.empty()) {
      units_.store(table, 0, count_, 0, h, h_rate);
      return;
    }
    for (int64_t i = 0; i < count_; ++i) {
      C* const row = (h_rate ? h_rate : h) + i * width_;
      const C square = static_cast<C>(2 * squares[i]), change = static_cast<C>(h_rate ? 2 * square_rates[i] : 0);
      for (int64_t d = 0; d < width_; ++d) {
        row[d] += h_rate ? change * vector(i)[d] + square * rate(i)[d] : square * vector(i)[d];
      }
      store_run(row, width_, table.row(i), table.stride);
    }
  }

 private:
  // The squared distance of a pair, from its product.
  Measured squared_distance(int64_t i, int64_t j, C product, C product_rate) const {
    const size_t a = static_cast<size_t>(i), b = static_cast<size_t>(j);
    const bool moves = !squared_rates_.empty();
    const Pair pair{static_cast<double>(product),
                    squared_[a],
                    squared_[b],
                    static_cast<double>(product_rate),
                    moves ? squared_rates_[a] : 0,
                    moves ? squared_rates_[b] : 0};
    if (!pair.is_near()) return {pair.squared_distance(), pair.squared_distance_rate()};
    Measured near{0, 0};
    for (int64_t d = 0; d < width_; ++d) {
      const double difference = static_cast<double>(vector(i)[d]) - static_cast<double>(vector(j)[d]);
      near.value += difference * difference;
      if (moves) near.rate += 2 * difference * (static_cast<double>(rate(i)[d]) - static_cast<double>(rate(j)[d]));
    }
    return near;
  }

  void load_centred(const RowTable<const C>& table, ScratchVector<C>& to) const {
    to.resize(static_cast<size_t>(count_ * width_));
    std::vector<double> mean(static_cast<size_t>(width_));
    for (int64_t i = 0; i < count_; ++i) {
      load_run(table.row(i), table.stride, width_, to.data() + i * width_);
      for (int64_t d = 0; d < width_; ++d) mean[static_cast<size_t>(d)] += static_cast<double>(to[i * width_ + d]);
    }
    for (double& sum : mean) sum /= static_cast<double>(std::max<int64_t>(1, count_));
    for (int64_t i = 0; i < count_; ++i) {
      for (int64_t d = 0; d < width_; ++d) to[i * width_ + d] -= static_cast<C>(mean[static_cast<size_t>(d)]);
    }
  }

  int64_t count_, width_;
  UnitRows<C> units_;
  ScratchVector<C> vectors_, rates_;
  std::vector<double> squared_, squared_rates_;
};

// One set.
template <class C, class Formula, bool Derivatives, bool Moves>
class SetWalk {
 public:
  SetWalk(const set_loss::SetTensors& tensors, const Formula& formula)
      : tensors_(tensors),
        formula_(formula),
        count_(tensors.embeddings.sizes()[0]),
        width_(tensors.embeddings.sizes()[1]),
        vectors_(tensors, formula.measure()),
        rows_(std::clamp<int64_t>(kNumbers / std::max<int64_t>(1, count_), 1, std::clamp<int64_t>(count_ / 8, 1, 256))),
        chunks_((count_ + rows_ - 1) / rows_),
        lanes_(std::min<int64_t>(chunks_, kLanes)) {}

  void run() {
    std::vector<Sums> sums(static_cast<size_t>(lanes_));
    torch::stable::parallel_for(0, std::max<int64_t>(2, lanes_), 1, [&](int64_t begin, int64_t end) {
      const OneThreadMatmul one_thread;
      for (int64_t lane = begin; lane < std::min(end, lanes_); ++lane) {
        Memory memory(rows_ * count_);
        Sums& of_lane = sums[static_cast<size_t>(lane)];
        if (tensors_.grad_embeddings) of_lane.reset(count_, width_);
        for (int64_t chunk = chunks_ * lane / lanes_; chunk < chunks_ * (lane + 1) / lanes_; ++chunk) {
          take(chunk * rows_, std::min(rows_, count_ - chunk * rows_), memory, of_lane);
        }
      }
    });
    if (!tensors_.grad_embeddings || lanes_ == 0) return;
    for (size_t lane = 1; lane < sums.size(); ++lane) sums[0].add(sums[lane]);
    vectors_.store(*tensors_.grad_embeddings, sums[0].gradient.data(), Moves ? sums[0].rate.data() : nullptr,
                   sums[0].squares.data(), sums[0].square_rates.data());
  }

 private:
  // Numbers of a chunk of the matrix, and lanes.
  static constexpr int64_t kNumbers = 1 << 18, kLanes = 8;

  struct Memory {
    ScratchVector<C> values, rates, slopes, slope_rates;

    explicit Memory(int64_t numbers)
        : values(static_cast<size_t>(numbers)),
          rates(Moves ? values.size() : 0),
          slopes(values.size()),
          slope_rates(rates.size()) {}
  };
  // The gradients of vectors and of their squared lengths, and how they move.
  struct Sums {
    ScratchVector<C> gradient, rate;
    std::vector<double> squares, square_rates;

    void reset(int64_t count, int64_t width) {
      gradient.assign(static_cast<size_t>(count * width), C(0));
      squares.assign(static_cast<size_t>(count), 0.0);
      if (Moves) rate = gradient, square_rates = squares;
    }
    void add(const Sums& other) {
      for (size_t i = 0; i < gradient.size(); ++i) gradient[i] += other.gradient[i];
      for (size_t i = 0; i < rate.size(); ++i) rate[i] += other.rate[i];
      for (size_t i = 0; i < squares.size(); ++i) squares[i] += other.squares[i];
      for (size_t i = 0; i < square_rates.size(); ++i) square_rates[i] += other.square_rates[i];
    }
  };

  void take(int64_t first, int64_t rows, Memory& memory, Sums& sums) {
    const Tensor all = cpu_columns(vectors_.vector(0), count_, width_);
    const Tensor own = cpu_rows(vectors_.vector(first), rows, width_);
    cpu_matmul(cpu_rows(memory.values.data(), rows, count_), own, all, false);
    if constexpr (Moves) {
      const Tensor rates = cpu_rows(memory.rates.data(), rows, count_);
      cpu_matmul(rates, cpu_rows(vectors_.rate(first), rows, width_), all, false);
      cpu_matmul(rates, own, cpu_columns(vectors_.rate(0), count_, width_), true);
    }
    for (int64_t r = 0; r < rows; ++r) take_row(first + r, r * count_, memory, sums);
    if (tensors_.grad_embeddings) add_products(first, rows, memory, sums);
  }

  void take_row(int64_t i, int64_t offset, Memory& memory, Sums& sums) {
    const PairMeasure measure = formula_.measure();
    C *const values = memory.values.data() + offset, *const rates = Moves ? memory.rates.data() + offset : nullptr;
    if (measure != PairMeasure::cosine) {
      vectors_.template measure_row<Moves>(measure, i, values, rates);
    }
    const int64_t* const labels = tensors_.labels.template const_data_ptr<int64_t>();
    const PairRow<C, PlainAccess> row{values,
                                      rates,
                                      memory.slopes.data() + offset,
                                      Moves ? memory.slope_rates.data() + offset : nullptr,
                                      labels,
                                      i,
                                      count_,
                                      labels[i]};
    const PairLoss loss = formula_.template operator()<Derivatives, Moves>(SingleThread(), row);
    if (tensors_.output) {
      double moved = 0;
      if constexpr (Moves) {
        for (int64_t j = 0; j < count_; ++j) moved += row.slope(j) == 0 ? 0 : row.slope(j) * row.rate(j);
      }
      C* const output = tensors_.output->template mutable_data_ptr<C>() + i * kPairResults;
      output[0] = static_cast<C>(Moves ? moved : loss.loss), output[1] = static_cast<C>(Moves ? 0 : loss.terms);
    }
    if (tensors_.grad_embeddings) scale_row(row, sums);
  }

  // From derivatives with respect to measures to those with respect to products, times the row's incoming gradient.
  void scale_row(const PairRow<C, PlainAccess>& row, Sums& sums) {
    const PairMeasure measure = formula_.measure();
    const C* const grads = tensors_.grad_output->template const_data_ptr<C>();
    const double grad = static_cast<double>(grads[row.anchor * tensors_.grad_output->strides()[0]]);
    double total = 0, total_rate = 0;
    for (int64_t j = 0; j < count_; ++j) {
      if (row.slope(j) == 0 && (!Moves || row.slope_rate(j) == 0)) continue;
      double slope = grad * row.slope(j), slope_rate = Moves ? grad * row.slope_rate(j) : 0;
      if (measure != PairMeasure::cosine) {
        const Measured of = of_square(measure, row.value(j), Moves ? row.rate(j) : 0, slope, slope_rate);
        total += of.value, sums.squares[static_cast<size_t>(j)] += of.value;
        if constexpr (Moves) total_rate += of.rate, sums.square_rates[static_cast<size_t>(j)] += of.rate;
        slope = -2 * of.value, slope_rate = -2 * of.rate;
      }
      row.set_slope(j, slope);
      if constexpr (Moves) row.set_slope_rate(j, slope_rate);
    }
    sums.squares[static_cast<size_t>(row.anchor)] += total;
    if constexpr (Moves) sums.square_rates[static_cast<size_t>(row.anchor)] += total_rate;
  }

  void add_products(int64_t first, int64_t rows, const Memory& memory, Sums& sums) {
    if (formula_.is_sparse()) return add_pairs(first, rows, memory, sums);
    const Tensor slopes = cpu_rows(memory.slopes.data(), rows, count_);
    const Tensor turned = cpu_columns(memory.slopes.data(), rows, count_);
    add_products_of(slopes, turned, first, rows, false, sums.gradient);
    if constexpr (Moves) {
      add_products_of(slopes, turned, first, rows, true, sums.rate);
      add_products_of(cpu_rows(memory.slope_rates.data(), rows, count_),
                      cpu_columns(memory.slope_rates.data(), rows, count_), first, rows, false, sums.rate);
    }
  }

  // The same pair by pair, where few have a derivative.
  void add_pairs(int64_t first, int64_t rows, const Memory& memory, Sums& sums) const {
    const auto add = [&](ScratchVector<C>& to, int64_t i, int64_t j, C slope, bool of_rates) {
      const C* const a = of_rates ? vectors_.rate(i) : vectors_.vector(i);
      const C* const b = of_rates ? vectors_.rate(j) : vectors_.vector(j);
      C *const to_a = to.data() + i * width_, *const to_b = to.data() + j * width_;
      for (int64_t d = 0; d < width_; ++d) to_a[d] += slope * b[d];
      for (int64_t d = 0; d < width_; ++d) to_b[d] += slope * a[d];
    };
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < count_; ++j) {
        const size_t index = static_cast<size_t>(r * count_ + j);
        const C slope = memory.slopes[index], slope_rate = Moves ? memory.slope_rates[index] : C(0);
        if (slope == 0 && slope_rate == 0) continue;
        add(sums.gradient, first + r, j, slope, false);
        if constexpr (Moves) {
          add(sums.rate, first + r, j, slope, true);
          add(sums.rate, first + r, j, slope_rate, false);
        }
      }
    }
  }

  void add_products_of(const Tensor& slopes, const Tensor& turned, int64_t first, int64_t rows, bool of_rates,
                       ScratchVector<C>& to) const {
    const C* const all = of_rates ? vectors_.rate(0) : vectors_.vector(0);
    cpu_matmul(cpu_rows(to.data() + first * width_, rows, width_), slopes, cpu_rows(all, count_, width_), true);
    cpu_matmul(cpu_rows(to.data(), count_, width_), turned, cpu_rows(all + first * width_, rows, width_), true);
  }

  const set_loss::SetTensors& tensors_;
  const Formula& formula_;
  const int64_t count_, width_;
  const SetVectors<C> vectors_;
  const int64_t rows_, chunks_, lanes_;
};

struct SetsOnCpu {
  template <class Formula>
  static void run(const char* op, const set_loss::SetTensors& tensors, const Formula& formula) {
    dispatch_compute(op, tensors.embeddings.scalar_type(), [&](auto tag) {
      using C = typename decltype(tag)::type;
      for (int64_t set = 0; set < tensors.sets(); ++set) {
        const set_loss::SetTensors of = set_loss::of_set(tensors, set);
        if (of.directions) {
          SetWalk<C, Formula, true, true>(of, formula).run();
        } else if (of.grad_output) {
          SetWalk<C, Formula, true, false>(of, formula).run();
        } else {
          SetWalk<C, Formula, false, false>(of, formula).run();
        }
      }
    });
  }
};

}  // namespace handgrad
