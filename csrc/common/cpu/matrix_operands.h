// The operands of a loop over all pairs of two tables of boxes, batch by batch, for both devices; the loops themselves
// are cpu/box_matrix.h's and cuda/box_matrix.cuh's. An op gives a body of one pair, as for pair_operands.h.
//
// boxes1, [..., N, 4], and what goes with them are told by their rows, boxes2, [..., M, 4], by their columns: of the
// matrix of all pairs, [..., N, M]. kGradOutput and kLoss are such matrices, and gradients are sums over its rows or
// columns.
#pragma once

#include "abi/check.h"
#include "cpu/pair_operands.h"

namespace handgrad {

// Whose boxes' rows are the matrix' columns.
inline constexpr bool is_of_columns(int k) { return k == kBoxes2 || k == kDirection2 || k == kGrad2; }

// Where each operand begins for a batch index, in elements.
struct BatchOffsets {
  static constexpr int kDimensions = 8;
  int dimensions;
  int64_t sizes[kDimensions];
  int64_t strides[kDimensions][kPairOperands];

  HANDGRAD_MATH int64_t operator()(int64_t batch, int k) const {
    int64_t offset = 0;
    for (int d = dimensions - 1; d >= 0; --d) {
      const int64_t outer = batch / sizes[d];
      offset += (batch - outer * sizes[d]) * strides[d][k];
      batch = outer;
    }
    return offset;
  }
};

// The steps along an operand's last two dimensions: of boxes from row to row and from coordinate to coordinate, of a
// matrix from row to row and from column to column.
struct MatrixSteps {
  int64_t row, inner;
};

struct MatrixOperands {
  int64_t numbers;  // of a box: 4, or 5
  std::array<Operand, kPairOperands> all{};
  std::array<MatrixSteps, kPairOperands> steps{};
  Sizes batch;
  int64_t rows, columns;  // N, M

  MatrixOperands(const Tensor& boxes1,  // [..., N, 4]
                 const Tensor& boxes2)  // [..., M, 4]
      : numbers(boxes1.sizes()[boxes1.dim() - 1]),
        batch(boxes1.sizes().data(), boxes1.sizes().size() - 2),
        rows(boxes1.sizes()[batch.size()]),
        columns(boxes2.sizes()[batch.size()]) {
    set(kBoxes1, Input(boxes1));
    set(kBoxes2, Input(boxes2));
  }
  // A direction that is not given is zero.
  void set_directions(const std::optional<Tensor>& direction1,    // [..., N, 4]
                      const std::optional<Tensor>& direction2) {  // [..., M, 4]
    if (direction1) set(kDirection1, Input(*direction1));
    if (direction2) set(kDirection2, Input(*direction2));
  }
  void set_grad_output(const Tensor& matrix) { set(kGradOutput, Input(matrix)); }  // [..., N, M]
  // What is not wanted is written nowhere.
  void set_matrix(bool wanted, const Tensor& matrix) {  // [..., N, M]
    if (wanted) set(kLoss, Output(matrix));
  }
  void set_gradients(bool want1, const Tensor& grad1,    // [..., N, 4]
                     bool want2, const Tensor& grad2) {  // [..., M, 4]
    if (want1) set(kGrad1, Output(grad1));
    if (want2) set(kGrad2, Output(grad2));
  }

  int64_t batches() const {
    int64_t count = 1;
    for (const int64_t size : batch) count *= size;
    return count;
  }
  BatchOffsets offsets(const char* op) const {
    const ElementLoop loop(batch, all.data(), kPairOperands);
    BatchOffsets offsets{};
    HANDGRAD_CHECK(loop.dimensions() <= offsets.kDimensions, op, ": batches whose memory takes more than ",
                   offsets.kDimensions, " dimensions to describe must be made contiguous first");
    offsets.dimensions = loop.dimensions();
    for (int d = 0; d < offsets.dimensions; ++d) {
      const ElementLoop::Dimension dimension = loop.dimension(d);
      offsets.sizes[d] = dimension.size;
      for (int k = 0; k < kPairOperands; ++k) offsets.strides[d][k] = dimension.strides[k];
    }
    return offsets;
  }

 private:
  void set(PairOperand k, const Operand& operand) {
    all[k] = operand;
    steps[k] = {operand.strides[batch.size()], operand.strides[batch.size() + 1]};
  }
};

}  // namespace handgrad
