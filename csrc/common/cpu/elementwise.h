// Loops over the elements of tensors of one shape, whatever their strides and dtype.
//
// An op gives a body of one element, `void operator()(const C (&in)[In], C (&out)[Out]) const`, C being float or
// double; the same one runs on the device (elementwise.cuh). The loop around it sees only short, contiguous runs of C.
// Strides, half types and the split over threads are dealt with outside, so that the one loop that knows the formula is
// compiled once for each type that it computes in, and always vectorised. Where memory already is such a run, the loop
// works in place and nothing is copied; otherwise runs go through buffers small enough to stay in the first-level
// cache.
#pragma once

#include <utility>

#include "cpu/element_loop.h"
#include "cpu/parallel.h"
#include "math/convert.h"

namespace handgrad {

// Elements per run: long enough to hide the cost of a call, short enough for a dozen buffers in 32 KiB.
inline constexpr int64_t kBlock = 512;
// Smallest piece of work that a thread takes, or that one partial sum covers.
inline constexpr int64_t kChunk = 8 * kBlock;

namespace detail {

// A run is a multiple of so many elements, two of the widest vectors of any instruction set: what is shorter goes
// through buffers, filled up with zeros. So a loop needs no second and third version of the formula for what is left
// over.
inline constexpr int64_t kLanes = 32;

// The loop over a run: inputs and outputs one after the other in `operands`, and four bytes of room for each element.
template <class C>
using RunLoop = void (*)(const void* body, int64_t count, C* const* operands, void* room);

template <class C, class Body, class In, class Out>
struct RunOf;

template <class C, class Body, size_t... In, size_t... Out>
struct RunOf<C, Body, std::index_sequence<In...>, std::index_sequence<Out...>> {
  static void loop(const void* memory, int64_t count, C* const* operands, void* room) {
    const Body body = *static_cast<const Body*>(memory);
    const C* const in[] = {operands[In]...};
    C* const out[] = {operands[sizeof...(In) + Out]...};
    const int64_t whole = count & -kLanes;
    // As many elements are taken at once as fit into a vector of the narrowest type in the loop. One that is half as
    // wide as C makes that two vectors of C, which are computed side by side: formulas are long chains of operations
    // that wait for each other, and up to a quarter of the time is saved. Nobody reads what is stored.
    using HalfAsWide = std::conditional_t<std::is_same_v<C, double>, int32_t, int16_t>;
    [[maybe_unused]] HalfAsWide* const unread = static_cast<HalfAsWide*>(room);
    HANDGRAD_SIMD
    for (int64_t i = 0; i < whole; ++i) {
      const C element[] = {in[In][i]...};
      C result[sizeof...(Out)];
      body(element, result);
      ((out[Out][i] = result[Out]), ...);
      if constexpr (!kIsRare<Body> || std::is_same_v<C, float>) unread[i] = 0;
    }
  }
};

// All that a loop over elements is, but for its formula: what follows exists once for each type C.
template <class C>
struct ElementJob {
  ElementLoop elements;
  std::array<Operand, kMaxOperands> operands;
  std::array<C, kMaxOperands> constants{};  // the values of inputs that are one for all elements
  int inputs, count;                        // count: of all operands
  bool summed;                              // the first output
  RunLoop<C> loop;
  const void* body;

  bool is_output(int k) const { return k >= inputs; }
  // An input that is given twice, one after the other, is read once.
  bool is_repeated(int k) const { return k > 0 && !is_output(k) && operands[k] == operands[k - 1]; }
  // Its memory is a run of C already.
  bool in_place(int k) const {
    return operands[k].strides && operands[k].dtype == kDtype<C> && elements.is_linear() && elements.stride(k) == 1;
  }
};

template <class C>
void load_block(const ElementJob<C>& job, int k, int64_t begin, int64_t count, C* buffer) {
  const Operand& operand = job.operands[k];
  job.elements.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    load_run(operand.dtype, operand.data, offset, job.elements.stride(k), length, buffer + position);
  });
}

template <class C>
void store_block(const ElementJob<C>& job, int k, int64_t begin, int64_t count, const C* buffer) {
  const Operand& operand = job.operands[k];
  job.elements.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    store_run(operand.dtype, buffer + position, length, operand.data, offset, job.elements.stride(k));
  });
}

// Element 0, kLanes, 2 kLanes, …, added up as a tree: unrolled, so that no addition waits for the one before it.
template <class C, int64_t Rows>
HANDGRAD_MATH C column_sum(const C* column) {
  if constexpr (Rows == 1) {
    return *column;
  } else {
    return column_sum<C, Rows / 2>(column) + column_sum<C, Rows / 2>(column + Rows / 2 * kLanes);
  }
}

// The sum of the blocks of an output: within a block in C, from block to block in double, for each lane by itself.
struct BlockSums {
  double lanes[kLanes] = {};

  template <class C>
  void add(C* block, int64_t count) {
    std::fill(block + count, block + kBlock, C(0));
    HANDGRAD_SIMD
    for (int64_t k = 0; k < kLanes; ++k) {
      lanes[k] += static_cast<double>(column_sum<C, kBlock / kLanes>(block + k));
    }
  }
  double total() const {
    double total = 0;
    for (const double lane : lanes) total += lane;
    return total;
  }
};

// The elements [begin, end); returns the sum of the first output, if it is summed.
template <class C>
[[gnu::noipa]] double run_blocks(const ElementJob<C>& job, int64_t begin, int64_t end) {
  alignas(64) C buffers[kMaxOperands][kBlock];
  alignas(64) unsigned char room[4 * kBlock];
  C* pointers[kMaxOperands];
  for (int k = 0; k < job.inputs; ++k) {
    pointers[k] = buffers[k];
    if (!job.operands[k].strides) std::fill_n(buffers[k], kBlock, job.constants[k]);
  }
  BlockSums sums;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min(kBlock, end - first), filled = (count + kLanes - 1) & -kLanes;
    for (int k = 0; k < job.count; ++k) {
      if (job.is_repeated(k)) {
        pointers[k] = pointers[k - 1];
      } else if (filled == count && job.in_place(k)) {
        pointers[k] = static_cast<C*>(job.operands[k].data) + first;
      } else {
        pointers[k] = buffers[k];
        if (job.is_output(k) || !job.operands[k].strides) continue;
        load_block(job, k, first, count, buffers[k]);
        std::fill(buffers[k] + count, buffers[k] + filled, C(0));
      }
    }
    job.loop(job.body, filled, pointers, room);
    if (job.summed) sums.add(pointers[job.inputs], count);
    for (int k = job.inputs; k < job.count; ++k) {
      if (pointers[k] == buffers[k] && job.operands[k].data) store_block(job, k, first, count, buffers[k]);
    }
  }
  return job.summed ? sums.total() : 0.0;
}

template <class C>
double run_all(const ElementJob<C>& job) {
  const int64_t numel = job.elements.numel();
  if (job.summed) {
    return parallel_sum(numel, kChunk, [&](int64_t begin, int64_t end) { return run_blocks(job, begin, end); });
  }
  parallel_for((numel + kChunk - 1) / kChunk, kChunk,
               [&](int64_t begin, int64_t end) { run_blocks(job, begin * kChunk, std::min(numel, end * kChunk)); });
  return 0;
}

template <class C>
[[gnu::noipa]] void run_elements(const Tensor& like, RunLoop<C> loop, const void* body, const Input* inputs, int in,
                                 const Output* outputs, int out) {
  std::array<Operand, kMaxOperands> operands;
  std::copy(inputs, inputs + in, operands.begin());
  std::copy(outputs, outputs + out, operands.begin() + in);
  const Tensor* total = outputs[0].total;
  ElementJob<C> job{
      ElementLoop(like.sizes(), operands.data(), in + out), operands, {}, in, in + out, total != nullptr, loop, body};
  for (int k = 0; k < in; ++k) {
    if (inputs[k].strides || !inputs[k].data) continue;
    load_run(inputs[k].dtype, inputs[k].data, 0, 0, 1, &job.constants[k]);
    job.constants[k] *= static_cast<C>(inputs[k].factor);
  }
  const double sum = run_all(job);
  if (total) {
    const C value = static_cast<C>(sum / outputs[0].divisor);
    store_run(like.scalar_type(), &value, 1, total->mutable_data_ptr(), 0, 0);
  }
}

}  // namespace detail

// body on every element of the inputs, which share shape and dtype of `like`, computed in C.
template <class C, size_t In, size_t Out, class Body>
void for_each_element(const Tensor& like, const Body& body, const Input (&inputs)[In], const Output (&outputs)[Out]) {
  static_assert(In + Out <= kMaxOperands);
  using Run = detail::RunOf<C, Body, std::make_index_sequence<In>, std::make_index_sequence<Out>>;
  detail::run_elements<C>(like, &Run::loop, &body, inputs, In, outputs, Out);
}

// What host entries that serve several devices call (kinds/). `op` and `pass` name the loop in error messages of
// devices.
struct OnCpu {
  template <class C, size_t In, size_t Out, class Body>
  static void for_each_element(const char* /*op*/, const char* /*pass*/, const Tensor& like, const Body& body,
                               const Input (&inputs)[In], const Output (&outputs)[Out]) {
    handgrad::for_each_element<C>(like, body, inputs, outputs);
  }
};

}  // namespace handgrad
