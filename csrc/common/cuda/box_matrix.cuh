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
// Rows whose gradients a warp adds up at once: its lanes are these times four coordinates, or half of them in double.
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
  C* row_sums;     // [batches, column blocks, N, 4]; null: not asked for
  C* column_sums;  // [batches, row blocks, M, 4]
  ScalarType boxes_dtype;

  // Coordinate c of a row.
  template <class T>
  __device__ __forceinline__ C coordinate(int k, int64_t batch, int64_t row, int c) const {
    if (!data[k]) return C(0);
    return widen(load(static_cast<const T*>(data[k]) + offsets(batch, k) + row * steps[k].row + c * steps[k].inner));
  }
};

template <class C>
__device__ __forceinline__ Box<C> box_from(const C* row) {
  return {row[0], row[1], row[2], row[3]};
}

template <class C, class Body>
__global__ void __launch_bounds__(kMatrixThreads, kMinBlocks) box_matrix_kernel(Body body, DeviceMatrix<C> matrix) {
  HANDGRAD_LAUNCH_BOUNDS(kMatrixThreads);
  constexpr bool kDirections = Body::kReads & bit(kDirection1);
  constexpr bool kSumsRows = Body::kWrites & bit(kGrad1), kSumsColumns = Body::kWrites & bit(kGrad2);
  constexpr int kGroup = kRowGroup<C>, kWarps = kMatrixThreads / kWarpSize;
  __shared__ C boxes[kMatrixRows][4], directions[kDirections ? kMatrixRows : 1][4];
  __shared__ C gradients[kSumsRows ? kWarps : 1][4][kGroup][kWarpSize + 1];
  __shared__ C of_warps[kSumsRows ? kWarps : 1][kMatrixRows][4];

  const int64_t column_block = blockIdx.x % matrix.column_blocks, outer = blockIdx.x / matrix.column_blocks;
  const int64_t row_block = outer % matrix.row_blocks, batch = outer / matrix.row_blocks;
  const int64_t first = row_block * matrix.block_rows, column = column_block * kMatrixThreads + threadIdx.x;
  const int rows = static_cast<int>(matrix.rows - first < matrix.block_rows ? matrix.rows - first : matrix.block_rows);
  const bool active = column < matrix.columns;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;

  PairInputs<C> in{};
  dispatch_storage<C>(matrix.boxes_dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int number = static_cast<int>(threadIdx.x); number < 4 * rows; number += kMatrixThreads) {
      boxes[number / 4][number % 4] = matrix.template coordinate<T>(kBoxes1, batch, first + number / 4, number % 4);
      if constexpr (kDirections) {
        directions[number / 4][number % 4] =
            matrix.template coordinate<T>(kDirection1, batch, first + number / 4, number % 4);
      }
    }
    if (!active) return;
    const auto box_of = [&](int k) -> Box<C> {
      return {matrix.template coordinate<T>(k, batch, column, 0), matrix.template coordinate<T>(k, batch, column, 1),
              matrix.template coordinate<T>(k, batch, column, 2), matrix.template coordinate<T>(k, batch, column, 3)};
    };
    in.boxes2 = box_of(kBoxes2);
    if constexpr (kDirections) in.direction2 = box_of(kDirection2);
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

  Box<C> sums{};
#pragma unroll 1
  for (int group = 0; group < rows; group += kGroup) {
#pragma unroll 1
    for (int r = 0; r < kGroup; ++r) {
      PairResults<C> out{};
      const int row = group + r;
      if (active && row < rows) {
        in.boxes1 = box_from(boxes[row]);
        if constexpr (kDirections) in.direction1 = box_from(directions[row]);
        if constexpr (Body::kReads & bit(kGradOutput)) {
          in.grad_output = load(grad_output + row * matrix.steps[kGradOutput].row);
        }
        out = body(in);
        if constexpr (Body::kWrites & bit(kLoss)) {
          if (output) store(output + row * matrix.steps[kLoss].row, out.loss);
        }
        if constexpr (kSumsColumns) {
          sums = {sums.x1 + out.grad2.x1, sums.y1 + out.grad2.y1, sums.x2 + out.grad2.x2, sums.y2 + out.grad2.y2};
        }
      }
      if constexpr (kSumsRows) {
        gradients[warp][0][r][lane] = out.grad1.x1;
        gradients[warp][1][r][lane] = out.grad1.y1;
        gradients[warp][2][r][lane] = out.grad1.x2;
        gradients[warp][3][r][lane] = out.grad1.y2;
      }
    }
    if constexpr (kSumsRows) {
      if (matrix.row_sums) {
        __syncwarp();
        const int c = lane / kGroup, r = lane % kGroup;
        if (c < 4 && group + r < rows) {
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
      C* to = matrix.column_sums + 4 * (outer * matrix.columns + column);
      const C low[2] = {sums.x1, sums.y1}, high[2] = {sums.x2, sums.y2};
      store_vector<2>(low, to);
      store_vector<2>(high, to + 2);
    }
  }
  if constexpr (kSumsRows) {
    if (!matrix.row_sums) return;
    __syncthreads();
    C* to = matrix.row_sums + 4 * ((batch * matrix.column_blocks + column_block) * matrix.rows + first);
    for (int number = static_cast<int>(threadIdx.x); number < 4 * rows; number += kMatrixThreads) {
      C sum = 0;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) sum += of_warps[other][number / 4][number % 4];
      store(to + number, sum);
    }
  }
}

// A gradient, and what it is the sum of.
template <class C>
struct PartsOfGradient {
  const C* parts;  // [batches, count, rows, 4]
  void* gradient;  // null: not asked for
  int64_t count, rows, items;
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
  const int64_t in_table = 4 * of.rows, batch = i / in_table, inside = i % in_table;
  const C* part = of.parts + batch * of.count * in_table + inside;
  double total = 0;
#pragma unroll 4
  for (int64_t k = 0; k < of.count; ++k) total += static_cast<double>(load(part + k * in_table));
  const int64_t to = offsets(batch, of.operand) + inside / 4 * of.steps.row + inside % 4 * of.steps.inner;
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
  return {parts, gradient, count, rows, gradient ? operands.batches() * rows * 4 : 0, operands.steps[k], k};
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
    const int64_t row_sums = rows ? 4 * batches * matrix.column_blocks * matrix.rows : 0;
    const int64_t column_sums = columns ? 4 * batches * matrix.row_blocks * matrix.columns : 0;
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
