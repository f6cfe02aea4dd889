// Kernels over all pairs of two tables of boxes, the device's counterpart of cpu/box_matrix.h, for the same bodies of
// one pair.
//
// A thread has one column of the matrix of pairs, whose box it keeps, and goes through the rows of its block, whose
// boxes lie in shared memory. So matrices are read and written by whole warps, and sums over rows stay in registers.
// For sums over columns a warp lays the gradients of a few rows in shared memory and adds them up across its lanes.
// What each block has summed is added up in double by a second kernel, in an order that depends on sizes alone.
//
// Each body is compiled into two kernels, for float and double, and serves every dtype and stride.
#pragma once

#include <algorithm>

#include "cpu/matrix_operands.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"

namespace handgrad {

// Columns of a block; and its rows, the most where there are enough blocks to fill a device.
inline constexpr int kMatrixThreads = 128;
inline constexpr int kMatrixRows = 64, kFewMatrixRows = 32;
inline constexpr int64_t kEnoughMatrixBlocks = 1024;
// Rows whose gradients a warp adds up at once: of axis-parallel boxes its lanes are these times four coordinates, or
// half of them in double.
template <class C>
inline constexpr int kRowGroup = sizeof(C) == sizeof(float) ? 8 : 4;

// What a kernel knows of its operands; boxes have one dtype, the others are C.
template <class C>
struct DeviceMatrix {
  void* data[kPairOperands];  // null: of an input zero, of a result written nowhere
  MatrixSteps steps[kPairOperands];
  BatchOffsets offsets;
  int64_t rows, columns, column_blocks, row_blocks;
  int block_rows;
  C* row_sums;     // [batches, column blocks, N, numbers of a box]; null: not asked for
  C* column_sums;  // [batches, row blocks, M, numbers of a box]
  ScalarType boxes_dtype;

  // Coordinate c of a row.
  template <class T>
  __device__ __forceinline__ C coordinate(int k, int64_t batch, int64_t row, int c) const {
    if (!data[k]) return C(0);
    return widen(load(static_cast<const T*>(data[k]) + offsets(batch, k) + row * steps[k].row + c * steps[k].inner));
  }
};

template <class C, class Body>
__global__ void __launch_bounds__(kMatrixThreads, kMinBlocks) box_matrix_kernel(Body body, DeviceMatrix<C> matrix) {
  HANDGRAD_LAUNCH_BOUNDS(kMatrixThreads);
  constexpr bool kDirections = Body::kReads & bit(kDirection1);
  constexpr bool kSumsRows = Body::kWrites & bit(kGrad1), kSumsColumns = Body::kWrites & bit(kGrad2);
  using Row = RowOf<C, Body>;
  constexpr int kNumbers = Row::kColumns, kGroup = kRowGroup<C>, kWarps = kMatrixThreads / kWarpSize;
  __shared__ C boxes[kMatrixRows][kNumbers], directions[kDirections ? kMatrixRows : 1][kNumbers];
  __shared__ C gradients[kSumsRows ? kWarps : 1][kNumbers][kGroup][kWarpSize + 1];
  __shared__ C of_warps[kSumsRows ? kWarps : 1][kMatrixRows][kNumbers];

  const int64_t column_block = blockIdx.x % matrix.column_blocks, outer = blockIdx.x / matrix.column_blocks;
  const int64_t row_block = outer % matrix.row_blocks, batch = outer / matrix.row_blocks;
  const int64_t first = row_block * matrix.block_rows, column = column_block * kMatrixThreads + threadIdx.x;
  const int rows = static_cast<int>(matrix.rows - first < matrix.block_rows ? matrix.rows - first : matrix.block_rows);
  const bool active = column < matrix.columns;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;

  PairInputs<C, Row> in{};
  dispatch_storage<C>(matrix.boxes_dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int number = static_cast<int>(threadIdx.x); number < kNumbers * rows; number += kMatrixThreads) {
      const int row = number / kNumbers, c = number % kNumbers;
      boxes[row][c] = matrix.template coordinate<T>(kBoxes1, batch, first + row, c);
      if constexpr (kDirections) {
        directions[row][c] = matrix.template coordinate<T>(kDirection1, batch, first + row, c);
      }
    }
    if (!active) return;
    const auto read = [&](int k, Row& box) {
      C numbers[kNumbers];
#pragma unroll
      for (int c = 0; c < kNumbers; ++c) numbers[c] = matrix.template coordinate<T>(k, batch, column, c);
      read_numbers(numbers, 1, box);
    };
    read(kBoxes2, in.boxes2);
    if constexpr (kDirections) read(kDirection2, in.direction2);
  });
  __syncthreads();

  // Where this column's elements of the first row are.
  const auto element_of = [&](int k) -> C* {
    if (!matrix.data[k]) return nullptr;
    return static_cast<C*>(matrix.data[k]) + matrix.offsets(batch, k) + first * matrix.steps[k].row +
           column * matrix.steps[k].inner;
  };
  const C* grad_output = nullptr;
  C* output = nullptr;
  if constexpr (Body::kReads & bit(kGradOutput)) grad_output = element_of(kGradOutput);
  if constexpr (Body::kWrites & bit(kLoss)) output = element_of(kLoss);

  C sums[kNumbers] = {};
#pragma unroll 1
  for (int group = 0; group < rows; group += kGroup) {
#pragma unroll 1
    for (int r = 0; r < kGroup; ++r) {
      PairResults<C, Row> out{};
      const int row = group + r;
      if (active && row < rows) {
        read_numbers(boxes[row], 1, in.boxes1);
        if constexpr (kDirections) read_numbers(directions[row], 1, in.direction1);
        if constexpr (Body::kReads & bit(kGradOutput)) {
          in.grad_output = load(grad_output + row * matrix.steps[kGradOutput].row);
        }
        out = body(in);
        if constexpr (Body::kWrites & bit(kLoss)) {
          if (output) store(output + row * matrix.steps[kLoss].row, out.loss);
        }
        if constexpr (kSumsColumns) add_numbers(out.grad2, sums, 1);
      }
      if constexpr (kSumsRows) {
        write_numbers(out.grad1, &gradients[warp][0][r][lane], kGroup * (kWarpSize + 1));
      }
    }
    if constexpr (kSumsRows) {
      if (matrix.row_sums) {
        __syncwarp();
        for (int number = lane; number < kNumbers * kGroup; number += kWarpSize) {
          const int c = number / kGroup, r = number % kGroup;
          if (group + r >= rows) continue;
          C sum = 0;
#pragma unroll 8
          for (int other = 0; other < kWarpSize; ++other) sum += gradients[warp][c][r][other];
          of_warps[warp][group + r][c] = sum;
        }
        __syncwarp();
      }
    }
  }
  if constexpr (kSumsColumns) {
    if (matrix.column_sums && active) {
      C* to = matrix.column_sums + kNumbers * (outer * matrix.columns + column);
      if constexpr (kNumbers == 4) {
        const C low[2] = {sums[0], sums[1]}, high[2] = {sums[2], sums[3]};
        store_vector<2>(low, to);
        store_vector<2>(high, to + 2);
      } else {
#pragma unroll
        for (int c = 0; c < kNumbers; ++c) store(to + c, sums[c]);
      }
    }
  }
  if constexpr (kSumsRows) {
    if (!matrix.row_sums) return;
    __syncthreads();
    C* to = matrix.row_sums + kNumbers * ((batch * matrix.column_blocks + column_block) * matrix.rows + first);
    for (int number = static_cast<int>(threadIdx.x); number < kNumbers * rows; number += kMatrixThreads) {
      C sum = 0;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) sum += of_warps[other][number / kNumbers][number % kNumbers];
      store(to + number, sum);
    }
  }
}

// A gradient, and what it is the sum of.
template <class C>
struct PartsOfGradient {
  const C* parts;  // [batches, count, rows, numbers of a box]
  void* gradient;  // null: not asked for
  int64_t count, rows, items, numbers;
  MatrixSteps steps;
  int operand;
};

// A thread for each number of both gradients.
template <class C>
__global__ void __launch_bounds__(kMatrixThreads, kMinBlocks)
    add_parts_kernel(PartsOfGradient<C> first, PartsOfGradient<C> second, BatchOffsets offsets, ScalarType dtype) {
  HANDGRAD_LAUNCH_BOUNDS(kMatrixThreads);
  int64_t i = int64_t{blockIdx.x} * kMatrixThreads + threadIdx.x;
  if (i >= first.items + second.items) return;
  const bool of_first = i < first.items;
  const PartsOfGradient<C>& of = of_first ? first : second;
  i -= of_first ? 0 : first.items;
  const int64_t in_table = of.numbers * of.rows, batch = i / in_table, inside = i % in_table;
  const C* part = of.parts + batch * of.count * in_table + inside;
  double total = 0;
#pragma unroll 4
  for (int64_t k = 0; k < of.count; ++k) total += static_cast<double>(load(part + k * in_table));
  const int64_t to =
      offsets(batch, of.operand) + inside / of.numbers * of.steps.row + inside % of.numbers * of.steps.inner;
  dispatch_storage<C>(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store(static_cast<T*>(of.gradient) + to, narrow<T>(static_cast<C>(total)));
  });
}

namespace detail {

template <class C>
DeviceMatrix<C> device_matrix(const char* op, const MatrixOperands& operands, const Tensor& boxes) {
  DeviceMatrix<C> matrix{};
  for (int k = 0; k < kPairOperands; ++k) {
    matrix.data[k] = operands.all[k].data;
    matrix.steps[k] = operands.steps[k];
  }
  matrix.offsets = operands.offsets(op);
  matrix.rows = operands.rows, matrix.columns = operands.columns;
  matrix.column_blocks = (operands.columns + kMatrixThreads - 1) / kMatrixThreads;
  const auto blocks_of = [&](int64_t rows) { return (operands.rows + rows - 1) / rows; };
  const int64_t tables = operands.batches() * matrix.column_blocks;
  matrix.block_rows = tables * blocks_of(kMatrixRows) >= kEnoughMatrixBlocks ? kMatrixRows : kFewMatrixRows;
  matrix.row_blocks = blocks_of(matrix.block_rows);
  matrix.boxes_dtype = boxes.scalar_type();
  return matrix;
}

template <class C>
PartsOfGradient<C> parts_of(const MatrixOperands& operands, PairOperand k, const C* parts, int64_t count,
                            int64_t rows) {
  void* gradient = operands.all[k].data;
  const int64_t items = gradient ? operands.batches() * rows * operands.numbers : 0;
  return {parts, gradient, count, rows, items, operands.numbers, operands.steps[k], k};
}

}  // namespace detail

// What host entries that serve several devices call (kinds/).
struct MatrixOnCuda {
  // body on all pairs of boxes1, which `boxes` are, and boxes2, computed in C.
  template <class C, class Body>
  static void for_each_pair(const char* op, const char* pass, const Tensor& boxes, const Body& body,
                            const MatrixOperands& operands) {
    const std::string name = std::string(op) + pass;
    DeviceMatrix<C> matrix = detail::device_matrix<C>(name.c_str(), operands, boxes);
    const int64_t batches = operands.batches();
    const bool rows = operands.all[kGrad1].data, columns = operands.all[kGrad2].data;
    const int64_t row_sums = rows ? operands.numbers * batches * matrix.column_blocks * matrix.rows : 0;
    const int64_t column_sums = columns ? operands.numbers * batches * matrix.row_blocks * matrix.columns : 0;
    const DeviceOf device(boxes);
    std::optional<Tensor> memory;
    if (rows || columns) {
      memory = empty_vector<C>(row_sums + column_sums, boxes);
      C* first = static_cast<C*>(memory->mutable_data_ptr());
      if (rows) matrix.row_sums = first;
      if (columns) matrix.column_sums = first + row_sums;
    }
    launch(name.c_str(), box_matrix_kernel<C, Body>, device,
           {batches * matrix.row_blocks * matrix.column_blocks, kMatrixThreads}, body, matrix);
    if (!memory) return;
    const auto first = detail::parts_of<C>(operands, kGrad1, matrix.row_sums, matrix.column_blocks, matrix.rows);
    const auto second = detail::parts_of<C>(operands, kGrad2, matrix.column_sums, matrix.row_blocks, matrix.columns);
    launch(name.c_str(), add_parts_kernel<C>, device, blocks_for(first.items + second.items, kMatrixThreads), first,
           second, matrix.offsets, matrix.boxes_dtype);
  }
};

}  // namespace handgrad
