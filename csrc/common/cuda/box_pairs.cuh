// Kernels over pairs of boxes, the device's counterpart of cpu/box_pairs.h, for the same bodies of one pair.
//
// Each body is compiled into three kernels, as in elementwise.cuh: dense rows computed in float, whose boxes are moved
// by one instruction each; rows of any strides in float; and in double, dense or not. Rows of five numbers, which
// no instruction moves at once, have no dense kernel.
#pragma once

#include "cpu/pair_operands.h"
#include "cuda/elementwise.cuh"

namespace handgrad {

// Few enough for the registers of dual numbers in double.
inline constexpr int kPairThreads = 128;
// Pairs that a thread takes, one after the other, for which a grad_output that all share is read once.
inline constexpr int64_t kPairsPerThread = 4;

// What a kernel knows of its operands; in indices of elements. Boxes have one dtype, the others are C.
template <class C>
struct DevicePairs {
  void* data[kPairOperands];  // null: of an input zero, of a result written nowhere
  uint32_t coordinate_strides[kPairOperands];
  double* partial;  // where each block puts its sum of losses; null: they are not summed
  C factor;         // of a grad_output that all pairs share
  bool shares_grad_output;
  ScalarType boxes_dtype;
};

// Reads what the body reads and writes what it writes, of one pair; load_box(k) and store_box(k, box) are the kernel's.
template <class C, class Body, class LoadBox>
__device__ __forceinline__ PairInputs<C, RowOf<C, Body>> load_pair(const LoadBox& load_box) {
  PairInputs<C, RowOf<C, Body>> in{};
  in.boxes1 = load_box(kBoxes1);
  in.boxes2 = load_box(kBoxes2);
  if constexpr (Body::kReads & bit(kDirection1)) in.direction1 = load_box(kDirection1);
  if constexpr (Body::kReads & bit(kDirection2)) in.direction2 = load_box(kDirection2);
  return in;
}

template <class C, class Body>
__device__ __forceinline__ C shared_grad_output(const DevicePairs<C>& pairs) {
  if constexpr (Body::kReads & bit(kGradOutput)) {
    if (pairs.shares_grad_output) return pairs.factor * load(static_cast<const C*>(pairs.data[kGradOutput]));
  }
  return C(0);
}

template <class Body>
__global__ void __launch_bounds__(kPairThreads, kMinBlocks)
    dense_pairs_kernel(Body body, DevicePairs<float> pairs, int64_t count) {
  HANDGRAD_LAUNCH_BOUNDS(kPairThreads);
  double total = 0;
  const float shared = shared_grad_output<float, Body>(pairs);
  const int64_t stride = int64_t{gridDim.x} * kPairThreads;
#pragma unroll 1
  for (int64_t i = int64_t{blockIdx.x} * kPairThreads + threadIdx.x; i < count; i += stride) {
    PairInputs<float> in{};
    dispatch_storage<float>(pairs.boxes_dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      in = load_pair<float, Body>([&](PairOperand k) -> Box<float> {
        float row[4] = {};
        if (pairs.data[k]) load_vector<4>(static_cast<const T*>(pairs.data[k]) + 4 * i, row);
        return {row[0], row[1], row[2], row[3]};
      });
    });
    if constexpr (Body::kReads & bit(kGradOutput)) {
      in.grad_output = pairs.shares_grad_output ? shared : load(static_cast<const float*>(pairs.data[kGradOutput]) + i);
    }
    const PairResults<float> out = body(in);
    if constexpr (Body::kWrites & bit(kLoss)) {
      if (pairs.data[kLoss]) store(static_cast<float*>(pairs.data[kLoss]) + i, out.loss);
      total += static_cast<double>(out.loss);
    }
    dispatch_storage<float>(pairs.boxes_dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const auto store_box = [&](PairOperand k, const Box<float>& box) {
        const float row[4] = {box.x1, box.y1, box.x2, box.y2};
        if (pairs.data[k]) store_vector<4>(row, static_cast<T*>(pairs.data[k]) + 4 * i);
      };
      if constexpr (Body::kWrites & bit(kGrad1)) store_box(kGrad1, out.grad1);
      if constexpr (Body::kWrites & bit(kGrad2)) store_box(kGrad2, out.grad2);
    });
  }
  if constexpr (Body::kWrites & bit(kLoss)) {
    if (pairs.partial) store_block_sum<kPairThreads>(total, pairs.partial);
  }
}

template <class C, class Body>
__global__ void __launch_bounds__(kPairThreads, kMinBlocks)
    strided_pairs_kernel(Body body, DevicePairs<C> pairs, StridedIndex<kPairOperands> index, uint32_t count) {
  HANDGRAD_LAUNCH_BOUNDS(kPairThreads);
  using Row = RowOf<C, Body>;
  double total = 0;
  const C shared = shared_grad_output<C, Body>(pairs);
#pragma unroll 1
  for (uint32_t i = blockIdx.x * kPairThreads + threadIdx.x; i < count; i += gridDim.x * kPairThreads) {
    uint32_t offset[kPairOperands];
    index.offsets(i, offset);
    PairInputs<C, Row> in{};
    dispatch_storage<C>(pairs.boxes_dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      in = load_pair<C, Body>([&](PairOperand k) -> Row {
        Row box{};
        if (!pairs.data[k]) return box;
        const T* from = static_cast<const T*>(pairs.data[k]) + offset[k];
        const int64_t step = pairs.coordinate_strides[k];
        C numbers[Row::kColumns];
#pragma unroll
        for (int c = 0; c < Row::kColumns; ++c) numbers[c] = widen(load(from + c * step));
        read_numbers(numbers, 1, box);
        return box;
      });
    });
    if constexpr (Body::kReads & bit(kGradOutput)) {
      in.grad_output = pairs.shares_grad_output
                           ? shared
                           : load(static_cast<const C*>(pairs.data[kGradOutput]) + offset[kGradOutput]);
    }
    const PairResults<C, Row> out = body(in);
    if constexpr (Body::kWrites & bit(kLoss)) {
      if (pairs.data[kLoss]) store(static_cast<C*>(pairs.data[kLoss]) + offset[kLoss], out.loss);
      total += static_cast<double>(out.loss);
    }
    dispatch_storage<C>(pairs.boxes_dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const auto store_box = [&](PairOperand k, const Row& box) {
        if (!pairs.data[k]) return;
        T* to = static_cast<T*>(pairs.data[k]) + offset[k];
        const int64_t step = pairs.coordinate_strides[k];
        C numbers[Row::kColumns];
        write_numbers(box, numbers, 1);
#pragma unroll
        for (int c = 0; c < Row::kColumns; ++c) store(to + c * step, narrow<T>(numbers[c]));
      };
      if constexpr (Body::kWrites & bit(kGrad1)) store_box(kGrad1, out.grad1);
      if constexpr (Body::kWrites & bit(kGrad2)) store_box(kGrad2, out.grad2);
    });
  }
  if constexpr (Body::kWrites & bit(kLoss)) {
    if (pairs.partial) store_block_sum<kPairThreads>(total, pairs.partial);
  }
}

namespace detail {

inline int64_t pair_blocks(int64_t pairs, bool summed) {
  const int64_t blocks = (pairs + kPairThreads * kPairsPerThread - 1) / (kPairThreads * kPairsPerThread);
  return summed ? std::min(blocks, kSumBlocks) : blocks;
}

// Whole boxes are moved at once from and to every operand that is there, and the others have no gaps.
inline bool is_dense(const PairOperands& operands, const ElementLoop& loop, ScalarType dtype) {
  const uintptr_t bytes = 4 * static_cast<uintptr_t>(element_size(dtype));
  for (int k = 0; k < kPairOperands; ++k) {
    if (!operands.all[k].strides) continue;
    if (!operands.is_dense(loop, k)) return false;
    if (is_box(k) && reinterpret_cast<uintptr_t>(operands.all[k].data) % bytes != 0) return false;
  }
  return true;
}

template <class C>
DevicePairs<C> device_pairs(const PairOperands& operands, const Tensor& boxes) {
  DevicePairs<C> pairs{};
  for (int k = 0; k < kPairOperands; ++k) {
    pairs.data[k] = operands.all[k].data;
    pairs.coordinate_strides[k] = static_cast<uint32_t>(operands.coordinate_strides[k]);
  }
  pairs.factor = static_cast<C>(operands.factor);
  pairs.shares_grad_output = operands.all[kGradOutput].data && !operands.all[kGradOutput].strides;
  pairs.boxes_dtype = boxes.scalar_type();
  return pairs;
}

template <class C, class Body>
void launch_strided_pairs(const char* name, const Body& body, const DevicePairs<C>& pairs, const PairOperands& operands,
                          const ElementLoop& loop, const Tensor& boxes, const DeviceOf& device, int64_t limit) {
  const bool summed = operands.sum.total;
  int64_t blocks = 0;
  loop.for_each_piece(limit, [&](const ElementLoop& piece, const ElementLoop::Strides&) {
    blocks += pair_blocks(piece.numel(), summed);
  });
  const BlockSums sums(operands.sum, blocks, boxes);
  int64_t behind = 0;
  loop.for_each_piece(limit, [&](const ElementLoop& piece, const ElementLoop::Strides& offsets) {
    DevicePairs<C> moved = pairs;
    for (int k = 0; k < kPairOperands; ++k) {
      if (!moved.data[k]) continue;
      const int64_t size = is_box(k) ? element_size(pairs.boxes_dtype) : static_cast<int64_t>(sizeof(C));
      moved.data[k] = static_cast<char*>(moved.data[k]) + offsets[k] * size;
    }
    moved.partial = sums.behind(behind);
    const int64_t count = pair_blocks(piece.numel(), summed);
    launch(name, strided_pairs_kernel<C, Body>, device, {count, kPairThreads}, body, moved,
           strided_index<kPairOperands>(name, piece), static_cast<uint32_t>(piece.numel()));
    behind += count;
  });
  sums.finish(device, kDtype<C>);
}

template <class Body>
void launch_dense_pairs(const char* name, const Body& body, DevicePairs<float> pairs, const PairOperands& operands,
                        int64_t count, const Tensor& boxes, const DeviceOf& device) {
  const int64_t blocks = pair_blocks(count, operands.sum.total);
  const BlockSums sums(operands.sum, blocks, boxes);
  pairs.partial = sums.behind(0);
  launch(name, dense_pairs_kernel<Body>, device, {blocks, kPairThreads}, body, pairs, count);
  sums.finish(device, ScalarType::Float);
}

}  // namespace detail

// body on every pair of boxes, computed in C; `boxes`, [..., 4], has the shape of all of them. Kernels whose indices
// have 32 bits take the pairs in pieces of fewer than `limit`. `name` is the loop's in error messages.
template <class C, class Body>
void for_each_pair(const char* name, const Tensor& boxes, const Body& body, const PairOperands& operands,
                   int64_t limit = INT32_MAX) {
  const ElementLoop loop = operands.loop(boxes);
  const DevicePairs<C> pairs = detail::device_pairs<C>(operands, boxes);
  const DeviceOf device(boxes);
  if constexpr (std::is_same_v<C, float> && RowOf<C, Body>::kColumns == 4) {
    if (detail::is_dense(operands, loop, boxes.scalar_type())) {
      detail::launch_dense_pairs(name, body, pairs, operands, loop.numel(), boxes, device);
      return;
    }
  }
  detail::launch_strided_pairs<C>(name, body, pairs, operands, loop, boxes, device, limit);
}

// What host entries that serve several devices call (kinds/).
struct PairsOnCuda {
  template <class C, class Body>
  static void for_each_pair(const char* op, const char* pass, const Tensor& boxes, const Body& body,
                            const PairOperands& operands) {
    const std::string name = std::string(op) + pass;
    handgrad::for_each_pair<C>(name.c_str(), boxes, body, operands);
  }
};

}  // namespace handgrad
