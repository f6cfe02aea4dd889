// Loops over all pairs of two tables of boxes, a body of one pair in (matrix_operands.h); sums over rows and columns of
// the matrix of pairs, which is never in memory unless it is a result.
//
// The matrix is cut into blocks of rows and tiles of columns. The boxes of a tile's columns are taken apart into
// vectors of one coordinate each; then, row by row, the loop around the body runs over them. It is compiled once for
// each type that it computes in. A gradient is summed within a block or tile first, in an order that depends on sizes
// alone, and then over blocks or tiles in double.
#pragma once

#include "cpu/matrix_operands.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "math/convert.h"

namespace handgrad {
namespace detail {

// Columns of a tile: all that a row's loop touches stays in the first-level cache.
inline constexpr int64_t kTileColumns = 256;
// A tile is filled up to a multiple of so many columns, the widest vector: a loop needs no second version of the
// formula.
inline constexpr int64_t kColumnLanes = 16;
// Rows of a block; where columns are summed, at most so many blocks, each of which leaves a sum for every column; and
// rows that are added up in C before a sum goes on in double.
inline constexpr int64_t kBlockRows = 32, kMostBlocks = 64, kRowsInC = 32;

// What the loop over a row of a tile reads and writes. Runs of the columns, one after the other for each coordinate,
// are kTileColumns apart.
template <class C>
struct TileRow {
  const C *boxes1, *direction1;  // one box
  const C *boxes2, *direction2;
  const C* grad_output;
  C *matrix, *grad1, *sums2;
};

template <class C>
using TileLoop = void (*)(const void* body, int64_t count, const TileRow<C>& row);

// One pair, in a function of its own for the reason that box_pairs.h gives.
template <class C, class Body>
HANDGRAD_MATH void tile_step(const Body& body, int64_t j, PairInputs<C, RowOf<C, Body>> in, const TileRow<C>& row) {
  using Row = RowOf<C, Body>;
  read_numbers(row.boxes2 + j, kTileColumns, in.boxes2);
  if constexpr (Body::kReads & bit(kDirection2)) read_numbers(row.direction2 + j, kTileColumns, in.direction2);
  if constexpr (Body::kReads & bit(kGradOutput)) in.grad_output = row.grad_output[j];
  const PairResults<C, Row> out = body(in);
  if constexpr (Body::kWrites & bit(kLoss)) row.matrix[j] = out.loss;
  if constexpr (Body::kWrites & bit(kGrad1)) write_numbers(out.grad1, row.grad1 + j, kTileColumns);
  if constexpr (Body::kWrites & bit(kGrad2)) add_numbers(out.grad2, row.sums2 + j, kTileColumns);
}

template <class C, class Body>
void tile_loop(const void* memory, int64_t count, const TileRow<C>& given) {
  const Body body = *static_cast<const Body*>(memory);
  const TileRow<C> row = given;
  PairInputs<C, RowOf<C, Body>> in{};
  read_numbers(row.boxes1, 1, in.boxes1);
  if constexpr (Body::kReads & bit(kDirection1)) read_numbers(row.direction1, 1, in.direction1);
  const int64_t whole = count & -kColumnLanes;
  HANDGRAD_SIMD
  for (int64_t j = 0; j < whole; ++j) tile_step<C>(body, j, in, row);
}

// All that such a loop is, but for its formula: what follows exists once for each type C.
template <class C>
struct MatrixJob {
  const MatrixOperands& operands;
  BatchOffsets offsets;
  unsigned reads, writes;
  TileLoop<C> loop;
  const void* body;
  int64_t block_rows, blocks, tiles;
  ScratchVector<double> row_sums;     // [batches, tiles, N, numbers]
  ScratchVector<double> column_sums;  // [batches, blocks, M, numbers]

  int64_t numbers() const { return operands.numbers; }  // of a box

  const void* at(int k) const { return operands.all[k].data; }
  bool is_wanted(PairOperand k) const { return (writes & bit(k)) && at(k); }
};

// The numbers of a box, which is at `offset`.
template <class C>
void load_box(const MatrixJob<C>& job, PairOperand k, int64_t offset, C* to) {
  if (!job.at(k)) {
    std::fill_n(to, job.numbers(), C(0));
    return;
  }
  load_run(job.operands.all[k].dtype, job.at(k), offset, job.operands.steps[k].inner, job.numbers(), to);
}

// `count` rows from `first` on, a run for each coordinate; filled up with the last of them, so that what is computed in
// vain is nothing that would not be computed anyway.
template <class C>
void load_columns(const MatrixJob<C>& job, PairOperand k, int64_t batch, int64_t first, int64_t count, C* to) {
  const MatrixSteps steps = job.operands.steps[k];
  const int64_t filled = (count + kColumnLanes - 1) & -kColumnLanes;
  for (int64_t c = 0; c < job.numbers(); ++c) {
    C* run = to + c * kTileColumns;
    if (!job.at(k)) {
      std::fill_n(run, filled, C(0));
      continue;
    }
    const int64_t offset = job.offsets(batch, k) + first * steps.row + c * steps.inner;
    load_run(job.operands.all[k].dtype, job.at(k), offset, steps.row, count, run);
    std::fill(run + count, run + filled, run[count - 1]);
  }
}

// The sum of a run, which is filled up with zeros behind `count`: each lane by itself, then lane after lane.
template <class C>
[[gnu::noipa]] double sum_of(C* run, int64_t count) {
  const int64_t filled = (count + kColumnLanes - 1) & -kColumnLanes;
  std::fill(run + count, run + filled, C(0));
  C lanes[kColumnLanes] = {};
  for (int64_t j = 0; j < filled; j += kColumnLanes) {
    HANDGRAD_SIMD
    for (int64_t lane = 0; lane < kColumnLanes; ++lane) lanes[lane] += run[j + lane];
  }
  double total = 0;
  for (const C lane : lanes) total += static_cast<double>(lane);
  return total;
}

// A thread's memory, and the walk over a block of a tile.
template <class C>
class TileWalk {
 public:
  explicit TileWalk(MatrixJob<C>& job) : job_(job), numbers_(job.numbers()) {}

  // Units are ordered batch, tile, block: those of one tile follow each other, and its columns are loaded once.
  void run(int64_t unit) {
    const int64_t block = unit % job_.blocks, of_tile = unit / job_.blocks;
    if (of_tile != loaded_) {
      loaded_ = of_tile;
      batch_ = of_tile / job_.tiles, tile_ = of_tile % job_.tiles;
      first_ = tile_ * kTileColumns;
      count_ = std::min(kTileColumns, job_.operands.columns - first_);
      load_columns(job_, kBoxes2, batch_, first_, count_, boxes2_);
      if (job_.reads & bit(kDirection2)) load_columns(job_, kDirection2, batch_, first_, count_, direction2_);
    }
    const int64_t begin = block * job_.block_rows, end = std::min(job_.operands.rows, begin + job_.block_rows);
    const bool sums_columns = job_.is_wanted(kGrad2);
    std::fill_n(sums2_, numbers_ * kTileColumns, C(0));
    std::fill_n(totals2_, sums_columns ? numbers_ * kTileColumns : 0, 0.0);
    for (int64_t row = begin; row < end; ++row) {
      run_row(row);
      if (sums_columns && ((row - begin) % kRowsInC == kRowsInC - 1 || row + 1 == end)) add_up();
    }
    if (!sums_columns) return;
    double* to = job_.column_sums.data() + numbers_ * ((batch_ * job_.blocks + block) * job_.operands.columns + first_);
    for (int64_t j = 0; j < count_; ++j) {
      for (int64_t c = 0; c < numbers_; ++c) to[numbers_ * j + c] = totals2_[c * kTileColumns + j];
    }
  }

 private:
  int64_t offset(PairOperand k, int64_t row) const {
    return job_.offsets(batch_, k) + row * job_.operands.steps[k].row + first_ * job_.operands.steps[k].inner;
  }

  void run_row(int64_t row) {
    const int64_t filled = (count_ + kColumnLanes - 1) & -kColumnLanes;
    load_box(job_, kBoxes1, job_.offsets(batch_, kBoxes1) + row * job_.operands.steps[kBoxes1].row, boxes1_);
    if (job_.reads & bit(kDirection1)) {
      load_box(job_, kDirection1, job_.offsets(batch_, kDirection1) + row * job_.operands.steps[kDirection1].row,
               direction1_);
    }
    TileRow<C> of_row{boxes1_, direction1_, boxes2_, direction2_, grad_output_, matrix_, grad1_, sums2_};
    if (job_.reads & bit(kGradOutput)) {
      const Operand& from = job_.operands.all[kGradOutput];
      const int64_t step = job_.operands.steps[kGradOutput].inner;
      if (step == 1 && filled == count_) {
        of_row.grad_output = static_cast<const C*>(from.data) + offset(kGradOutput, row);
      } else {
        load_run(from.dtype, from.data, offset(kGradOutput, row), step, count_, grad_output_);
        std::fill(grad_output_ + count_, grad_output_ + filled, C(0));
      }
    }
    C* const matrix =
        job_.is_wanted(kLoss) ? static_cast<C*>(job_.operands.all[kLoss].data) + offset(kLoss, row) : nullptr;
    if (matrix && filled == count_) of_row.matrix = matrix;
    job_.loop(job_.body, filled, of_row);
    if (matrix && filled != count_) std::copy_n(matrix_, count_, matrix);
    if (!job_.is_wanted(kGrad1)) return;
    double* to = job_.row_sums.data() + numbers_ * ((batch_ * job_.tiles + tile_) * job_.operands.rows + row);
    for (int64_t c = 0; c < numbers_; ++c) to[c] = sum_of(grad1_ + c * kTileColumns, count_);
  }

  void add_up() {
    HANDGRAD_SIMD
    for (int64_t j = 0; j < numbers_ * kTileColumns; ++j) {
      totals2_[j] += static_cast<double>(sums2_[j]);
      sums2_[j] = 0;
    }
  }

  MatrixJob<C>& job_;
  const int64_t numbers_;
  int64_t loaded_ = -1, batch_ = 0, tile_ = 0, first_ = 0, count_ = 0;
  alignas(64) C boxes1_[kMostColumns], direction1_[kMostColumns], grad_output_[kTileColumns], matrix_[kTileColumns];
  alignas(64) C boxes2_[kMostColumns * kTileColumns], direction2_[kMostColumns * kTileColumns];
  alignas(64) C grad1_[kMostColumns * kTileColumns], sums2_[kMostColumns * kTileColumns];
  alignas(64) double totals2_[kMostColumns * kTileColumns];
};

// A gradient, from the sums of its parts, [batches, parts, rows, numbers].
template <class C>
void add_parts(const MatrixJob<C>& job, PairOperand k, const double* sums, int64_t parts, int64_t rows) {
  const Operand& to = job.operands.all[k];
  const MatrixSteps steps = job.operands.steps[k];
  const int64_t numbers = job.numbers();
  parallel_for(job.operands.batches() * rows, 4 * (parts + 4), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t batch = i / rows, row = i % rows;
      double totals[kMostColumns] = {};
      for (int64_t part = 0; part < parts; ++part) {
        const double* from = sums + numbers * ((batch * parts + part) * rows + row);
        for (int64_t c = 0; c < numbers; ++c) totals[c] += from[c];
      }
      C box[kMostColumns];
      for (int64_t c = 0; c < numbers; ++c) box[c] = static_cast<C>(totals[c]);
      store_run(to.dtype, box, numbers, to.data, job.offsets(batch, k) + row * steps.row, steps.inner);
    }
  });
}

template <class C>
[[gnu::noipa]] void run_matrix(MatrixJob<C> job) {
  const MatrixOperands& operands = job.operands;
  const int64_t batches = operands.batches(), rows = operands.rows, columns = operands.columns;
  const auto parts_of = [](int64_t size, int64_t part) { return (size + part - 1) / part; };
  job.tiles = parts_of(columns, kTileColumns);
  job.block_rows = job.is_wanted(kGrad2) ? std::max(kBlockRows, parts_of(rows, kMostBlocks)) : kBlockRows;
  job.blocks = parts_of(rows, job.block_rows);
  if (job.is_wanted(kGrad1)) job.row_sums.resize(static_cast<size_t>(job.numbers() * batches * job.tiles * rows));
  if (job.is_wanted(kGrad2))
    job.column_sums.resize(static_cast<size_t>(job.numbers() * batches * job.blocks * columns));
  // A pair is some four numbers of work.
  const int64_t unit = 4 * std::min(rows, job.block_rows) * std::min(columns, kTileColumns);
  parallel_for(batches * job.tiles * job.blocks, unit, [&](int64_t begin, int64_t end) {
    TileWalk<C> walk(job);
    for (int64_t k = begin; k < end; ++k) walk.run(k);
  });
  if (job.is_wanted(kGrad1)) add_parts(job, kGrad1, job.row_sums.data(), job.tiles, rows);
  if (job.is_wanted(kGrad2)) add_parts(job, kGrad2, job.column_sums.data(), job.blocks, columns);
}

}  // namespace detail

// What host entries that serve several devices call (kinds/).
struct MatrixOnCpu {
  // body on all pairs of boxes1 and boxes2, computed in C.
  template <class C, class Body>
  static void for_each_pair(const char* op, const char* /*pass*/, const Tensor& /*boxes*/, const Body& body,
                            const MatrixOperands& operands) {
    detail::run_matrix<C>({operands,
                           operands.offsets(op),
                           Body::kReads,
                           Body::kWrites,
                           &detail::tile_loop<C, Body>,
                           &body,
                           0,
                           0,
                           0,
                           {},
                           {}});
  }
};

}  // namespace handgrad
