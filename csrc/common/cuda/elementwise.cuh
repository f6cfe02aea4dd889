// Kernels over the elements of tensors of one shape, the device's counterpart of elementwise.h, for the same bodies of
// one element: `void operator()(const C (&in)[In], C (&out)[Out]) const`, C being float or double.
//
// Each body is compiled into three kernels, whatever the dtypes and strides that they serve:
//   contiguous   computed in float, four elements to a thread: the usual case, and the one that memory is fast at
//   strided      an element to a thread, computed in float
//   strided      the same in double, contiguous or not: on most devices double is slow enough to hide it
// The dtype in memory is told apart within them, once for all loads and once for all stores of a step.
#pragma once

#include "cpu/element_loop.h"
#include "cuda/access.cuh"
#include "cuda/launch.cuh"
#include "cuda/reduce.cuh"

namespace handgrad {

inline constexpr int kElementThreads = 256;
// Consecutive elements that a thread takes in one step: 16 bytes of float32, 8 of the half types.
inline constexpr int kElementLanes = 4;
// Blocks of a sum: enough to fill any device of today, and the same on each, so that the order of its terms is too.
inline constexpr int64_t kSumBlocks = 1024;

// What a kernel knows of its operands. All have one dtype.
template <class C, size_t In, size_t Out>
struct DeviceOperands {
  const void* in[In];
  void* out[Out];     // null: written nowhere
  double* partial;    // where each block puts its sum of the first output; null: it is not summed
  C factor[In];       // of the constants
  unsigned constant;  // bit k: input k is one value for all elements; its pointer is null for 0
  unsigned repeated;  // bit k: input k is the one before it, and is read once
  ScalarType dtype;

  __device__ __forceinline__ bool is_constant(size_t k) const { return constant >> k & 1; }
  __device__ __forceinline__ bool is_repeated(size_t k) const { return repeated >> k & 1; }
  template <class T>
  __device__ __forceinline__ C load_one(size_t k, int64_t i) const {
    if (!is_constant(k)) return widen(load(static_cast<const T*>(in[k]) + i));
    return in[k] ? factor[k] * widen(load(static_cast<const T*>(in[k]))) : C(0);
  }
  template <class T>
  __device__ __forceinline__ void store_one(size_t k, int64_t i, C value) const {
    if (out[k]) store(static_cast<T*>(out[k]) + i, narrow<T>(value));
  }
};

// Element i of every operand, one dimension at a time, in 32 bits: a division of 64 costs as much as the rest of a
// loss.
template <size_t N>
struct StridedIndex {
  static constexpr int kDimensions = 8;
  int dimensions;
  uint32_t sizes[kDimensions];
  uint32_t strides[kDimensions][N];

  __device__ __forceinline__ void offsets(uint32_t i, uint32_t (&offset)[N]) const {
    for (size_t k = 0; k < N; ++k) offset[k] = 0;
#pragma unroll 1
    for (int d = dimensions - 1; d > 0; --d) {
      const uint32_t outer = i / sizes[d], inside = i - outer * sizes[d];
      for (size_t k = 0; k < N; ++k) offset[k] += inside * strides[d][k];
      i = outer;
    }
    for (size_t k = 0; k < N; ++k) offset[k] += i * strides[0][k];
  }
};

// What is left over after the whole vectors, less than one, is taken in steps of one element, which all lanes compute
// and the first one stores: one body serves both.
template <size_t In, size_t Out, class Body>
__global__ void __launch_bounds__(kElementThreads, kMinBlocks)
    contiguous_elements_kernel(Body body, DeviceOperands<float, In, Out> operands, int64_t count) {
  HANDGRAD_LAUNCH_BOUNDS(kElementThreads);
  double total = 0;
  const int64_t vectors = count / kElementLanes, steps = vectors + count % kElementLanes;
  const int64_t stride = int64_t{gridDim.x} * kElementThreads;
#pragma unroll 1
  for (int64_t step = int64_t{blockIdx.x} * kElementThreads + threadIdx.x; step < steps; step += stride) {
    const bool whole = step < vectors;
    const int64_t i = whole ? step * kElementLanes : vectors * (kElementLanes - 1) + step;
    float in[In][kElementLanes], out[Out][kElementLanes];
    dispatch_storage<float>(operands.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
#pragma unroll
      for (size_t k = 0; k < In; ++k) {
        if (operands.is_repeated(k)) {
#pragma unroll
          for (int lane = 0; k > 0 && lane < kElementLanes; ++lane) in[k][lane] = in[k - 1][lane];
        } else if (whole && !operands.is_constant(k)) {
          load_vector<kElementLanes>(static_cast<const T*>(operands.in[k]) + i, in[k]);
        } else {
          const float value = operands.template load_one<T>(k, i);
#pragma unroll
          for (int lane = 0; lane < kElementLanes; ++lane) in[k][lane] = value;
        }
      }
    });
#pragma unroll
    for (int lane = 0; lane < kElementLanes; ++lane) {
      float element[In], result[Out];
#pragma unroll
      for (size_t k = 0; k < In; ++k) element[k] = in[k][lane];
      body(element, result);
#pragma unroll
      for (size_t k = 0; k < Out; ++k) out[k][lane] = result[k];
    }
    if (operands.partial) {
      // A thread may take thousands of steps: their sum goes on in double.
      float sum = 0;
#pragma unroll
      for (int lane = 0; lane < kElementLanes; ++lane) sum += whole || lane == 0 ? out[0][lane] : 0.0f;
      total += static_cast<double>(sum);
    }
    dispatch_storage<float>(operands.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
#pragma unroll
      for (size_t k = 0; k < Out; ++k) {
        if (!whole) {
          operands.template store_one<T>(k, i, out[k][0]);
        } else if (operands.out[k]) {
          store_vector<kElementLanes>(out[k], static_cast<T*>(operands.out[k]) + i);
        }
      }
    });
  }
  if (operands.partial) store_block_sum<kElementThreads>(total, operands.partial);
}

template <class C, size_t In, size_t Out, class Body>
__global__ void __launch_bounds__(kElementThreads, kMinBlocks)
    strided_elements_kernel(Body body, DeviceOperands<C, In, Out> operands, StridedIndex<In + Out> index,
                            uint32_t count) {
  HANDGRAD_LAUNCH_BOUNDS(kElementThreads);
  double total = 0;
#pragma unroll 1
  for (uint32_t i = blockIdx.x * kElementThreads + threadIdx.x; i < count; i += gridDim.x * kElementThreads) {
    uint32_t offset[In + Out];
    index.offsets(i, offset);
    C in[In], out[Out];
    dispatch_storage<C>(operands.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
#pragma unroll
      for (size_t k = 0; k < In; ++k) {
        in[k] = k > 0 && operands.is_repeated(k) ? in[k - 1] : operands.template load_one<T>(k, offset[k]);
      }
    });
    body(in, out);
    if (operands.partial) total += static_cast<double>(out[0]);
    dispatch_storage<C>(operands.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
#pragma unroll
      for (size_t k = 0; k < Out; ++k) operands.template store_one<T>(k, offset[In + k], out[k]);
    });
  }
  if (operands.partial) store_block_sum<kElementThreads>(total, operands.partial);
}

namespace detail {

// A loop over elements on a device: what of it does not depend on the body.
struct DeviceJob {
  ScalarType dtype;
  const std::array<Operand, kMaxOperands>& operands;
  ElementLoop elements;
  bool summed;

  // Whole vectors reach every operand that is not one value for all elements.
  bool is_contiguous(int count) const {
    if (dtype == ScalarType::Double || !elements.is_linear()) return false;
    const uintptr_t bytes = kElementLanes * (dtype == ScalarType::Float ? sizeof(float) : sizeof(Half));
    for (int k = 0; k < count; ++k) {
      if (!operands[k].strides) continue;
      if (elements.stride(k) != 1 || reinterpret_cast<uintptr_t>(operands[k].data) % bytes != 0) return false;
    }
    return true;
  }
  int64_t blocks(int64_t steps) const {
    const int64_t blocks = (steps + kElementThreads - 1) / kElementThreads;
    return summed ? std::min(blocks, kSumBlocks) : blocks;
  }
};

template <size_t N>
StridedIndex<N> strided_index(const char* name, const ElementLoop& loop) {
  StridedIndex<N> index{};
  HANDGRAD_CHECK(loop.dimensions() <= index.kDimensions, name, ": tensors whose memory takes more than ",
                 index.kDimensions, " dimensions to describe must be made contiguous first");
  index.dimensions = loop.dimensions();
  for (int d = 0; d < index.dimensions; ++d) {
    const ElementLoop::Dimension dimension = loop.dimension(d);
    index.sizes[d] = static_cast<uint32_t>(dimension.size);
    for (size_t k = 0; k < N; ++k) index.strides[d][k] = static_cast<uint32_t>(dimension.strides[k]);
  }
  return index;
}

// The sums of blocks of the first output, if that is summed, and the kernel that adds them up. In two stages of fixed
// shape, so the result is the same to the bit on every run.
class BlockSums {
 public:
  BlockSums(const Output& output, int64_t blocks, const Tensor& like) : output_(output), blocks_(blocks) {
    if (output.total) sums_ = empty_vector<double>(blocks, like);
  }
  double* behind(int64_t blocks) const { return output_.total ? sums_->mutable_data_ptr<double>() + blocks : nullptr; }
  void finish(const DeviceOf& device, ScalarType dtype) const {
    if (!output_.total) return;
    launch("sum_of_partial_sums", sum_partial_kernel<kSumThreads>, device, {1, kSumThreads}, behind(0), blocks_,
           output_.divisor, dtype, output_.total->mutable_data_ptr());
  }

 private:
  const Output& output_;
  int64_t blocks_;
  std::optional<Tensor> sums_;
};

template <class C, size_t In, size_t Out>
DeviceOperands<C, In, Out> device_operands(const Input (&inputs)[In], const Output (&outputs)[Out], ScalarType dtype) {
  DeviceOperands<C, In, Out> operands{};
  for (size_t k = 0; k < In; ++k) {
    operands.in[k] = inputs[k].data;
    operands.factor[k] = static_cast<C>(inputs[k].factor);
    if (!inputs[k].strides) operands.constant |= 1u << k;
    if (k > 0 && inputs[k] == inputs[k - 1]) operands.repeated |= 1u << k;
  }
  for (size_t k = 0; k < Out; ++k) operands.out[k] = outputs[k].data;
  operands.dtype = dtype;
  return operands;
}

template <class C, size_t In, size_t Out, class Body>
void launch_strided(const char* name, const Body& body, DeviceOperands<C, In, Out> operands, const DeviceJob& job,
                    const Output& first, const Tensor& like, const DeviceOf& device, int64_t limit) {
  int64_t blocks = 0;
  job.elements.for_each_piece(
      limit, [&](const ElementLoop& piece, const ElementLoop::Strides&) { blocks += job.blocks(piece.numel()); });
  const BlockSums sums(first, blocks, like);
  const int64_t size = element_size(job.dtype);
  int64_t behind = 0;
  job.elements.for_each_piece(limit, [&](const ElementLoop& piece, const ElementLoop::Strides& offsets) {
    DeviceOperands<C, In, Out> moved = operands;
    for (size_t k = 0; k < In; ++k) {
      if (moved.in[k]) moved.in[k] = static_cast<const char*>(moved.in[k]) + offsets[k] * size;
    }
    for (size_t k = 0; k < Out; ++k) {
      if (moved.out[k]) moved.out[k] = static_cast<char*>(moved.out[k]) + offsets[In + k] * size;
    }
    moved.partial = sums.behind(behind);
    launch(name, strided_elements_kernel<C, In, Out, Body>, device, {job.blocks(piece.numel()), kElementThreads}, body,
           moved, strided_index<In + Out>(name, piece), static_cast<uint32_t>(piece.numel()));
    behind += job.blocks(piece.numel());
  });
  sums.finish(device, job.dtype);
}

template <size_t In, size_t Out, class Body>
void launch_contiguous(const char* name, const Body& body, DeviceOperands<float, In, Out> operands,
                       const DeviceJob& job, const Output& first, const Tensor& like, const DeviceOf& device) {
  const int64_t count = job.elements.numel(), blocks = job.blocks(count / kElementLanes + count % kElementLanes);
  const BlockSums sums(first, blocks, like);
  operands.partial = sums.behind(0);
  launch(name, contiguous_elements_kernel<In, Out, Body>, device, {blocks, kElementThreads}, body, operands, count);
  sums.finish(device, job.dtype);
}

}  // namespace detail

// body on every element of the inputs, which share shape and dtype of `like`, computed in C. Kernels whose indices have
// 32 bits take the elements in pieces of fewer than `limit`. `name` is the loop's in error messages.
template <class C, size_t In, size_t Out, class Body>
void for_each_element(const char* name, const Tensor& like, const Body& body, const Input (&inputs)[In],
                      const Output (&outputs)[Out], int64_t limit = INT32_MAX) {
  static_assert(In + Out <= kMaxOperands);
  std::array<Operand, kMaxOperands> all;
  std::copy(inputs, inputs + In, all.begin());
  std::copy(outputs, outputs + Out, all.begin() + In);
  const bool summed = outputs[0].total;
  const detail::DeviceJob job{like.scalar_type(), all, ElementLoop(like.sizes(), all.data(), In + Out), summed};
  const DeviceOperands<C, In, Out> operands = detail::device_operands<C>(inputs, outputs, job.dtype);
  const DeviceOf device(like);
  if constexpr (std::is_same_v<C, float>) {
    if (job.is_contiguous(In + Out)) {
      detail::launch_contiguous(name, body, operands, job, outputs[0], like, device);
      return;
    }
  }
  detail::launch_strided(name, body, operands, job, outputs[0], like, device, limit);
}

// What host entries that serve several devices call (kinds/).
struct OnCuda {
  template <class C, size_t In, size_t Out, class Body>
  static void for_each_element(const char* op, const char* pass, const Tensor& like, const Body& body,
                               const Input (&inputs)[In], const Output (&outputs)[Out]) {
    const std::string name = std::string(op) + pass;
    handgrad::for_each_element<C>(name.c_str(), like, body, inputs, outputs);
  }
};

}  // namespace handgrad
