// The gradient of a matrix whose rows are the coefficients of the classes, by the class that is the target: each of its
// numbers is a sum over the rows of logits with one target. A block has a row of the matrix, or some columns of it,
// goes over all class numbers, of which it finds those that are its own, four columns at a time; no order of blocks
// matters.
//
// What a row of logits adds is grad_output (highest - y_c + shift). For the gradient y are the logits and the rest
// makes minus the logarithm of a probability of it; for its derivative y is their direction, from which its mean is
// taken. The two numbers of a row are left by the pass before (RowShare::store_marks).
#pragma once

#include "cuda/launch.cuh"
#include "cuda/row_share.cuh"

namespace handgrad {

template <class C>
struct RowMatrixPass {
  RowViews<C> rows;
  StoredView<const C, 3> numbers;  // y
  const C* marks;
  int64_t count;  // of rows
};

inline constexpr int kMatrixColumns = 4;
// Blocks that are worth having: those of a row of the matrix share its columns.
inline constexpr int64_t kMatrixBlocks = 1024;

// A block's part of a row of the matrix.
template <class C>
struct RowMatrixRow {
  const RowMatrixPass<C>& pass;
  const RowTeam<double>& team;
  int64_t target;

  // body(row, sample, position) for this thread's rows of logits that have the target.
  template <class Body>
  __device__ void for_each_row(const Body& body) const {
#pragma unroll 1
    for (int64_t row = team.lane; row < pass.count; row += kRowThreads) {
      const int64_t sample = row / pass.rows.positions, position = row % pass.rows.positions;
      if (load(pass.rows.indices.at(sample, position)) == target) body(row, sample, position);
    }
  }

  __device__ bool has_rows() const {
    double found[1] = {0};
    if (pass.numbers && target != pass.rows.ignore_index) {
      for_each_row([&](int64_t, int64_t, int64_t) { found[0] += 1; });
    }
    team.sum(found);
    return found[0] > 0;
  }

  // The columns from `first` on.
  __device__ void sum_columns(int64_t first, double (&sums)[kMatrixColumns]) const {
    const RowViews<C>& rows = pass.rows;
    for_each_row([&](int64_t row, int64_t sample, int64_t position) {
      const C highest = load(pass.marks + 2 * row), shift = load(pass.marks + 2 * row + 1);
      const C grad = load(rows.grad_output.at(sample, position));
#pragma unroll
      for (int k = 0; k < kMatrixColumns; ++k) {
        if (first + k >= rows.classes) break;
        const C y = read(pass.numbers.at(sample, first + k, position));
        sums[k] += static_cast<double>(grad * ((highest - y) + shift));
      }
    });
    team.sum(sums);
  }
};

template <class C>
__global__ void __launch_bounds__(kRowThreads, kMinBlocks) row_matrix_kernel(RowMatrixPass<C> pass, int64_t parts) {
  HANDGRAD_LAUNCH_BOUNDS(kRowThreads);
  __shared__ RowMeeting<double> meeting;
  const RowTeam<double> team{kRowThreads, static_cast<int32_t>(threadIdx.x), meeting};
  const RowMatrixRow<C> row{pass, team, blockIdx.x / parts};
  const bool has_rows = row.has_rows();
  const int64_t step = parts * kMatrixColumns;
#pragma unroll 1
  for (int64_t first = blockIdx.x % parts * kMatrixColumns; first < pass.rows.classes; first += step) {
    double sums[kMatrixColumns] = {0, 0, 0, 0};
    if (has_rows) row.sum_columns(first, sums);
    const int64_t mine = first + team.lane;
    if (team.lane < kMatrixColumns && mine < pass.rows.classes) {
      const double sum = team.lane < 2 ? sums[team.lane == 0 ? 0 : 1] : sums[team.lane == 2 ? 2 : 3];
      store(pass.rows.grad_matrix.at(row.target, mine), static_cast<C>(sum));
    }
  }
}

template <class C>
void launch_row_matrix(const std::string& op, const DeviceOf& device, const RowViews<C>& rows, const C* marks,
                       RowPass pass) {
  const int64_t groups = (rows.classes + kMatrixColumns - 1) / kMatrixColumns;
  const RowMatrixPass<C> of{rows, pass == RowPass::gradient ? rows.inputs : rows.direction_inputs, marks,
                            rows.batch * rows.positions};
  const int64_t parts = std::clamp<int64_t>(kMatrixBlocks / rows.classes, 1, groups);
  launch((op + "_matrix").c_str(), row_matrix_kernel<C>, device, {rows.classes * parts, dim3(kRowThreads, 1, 1), 0}, of,
         parts);
}

}  // namespace handgrad
