// Loops over pairs of boxes, whatever their strides and dtype, a body of one pair in (pair_operands.h); sums over them.
//
// As in elementwise.h the loop around the body is compiled once for each type that it computes in, and sees short runs
// of it: rows of four, one after the other, as a dense tensor of boxes has them anyway. The loop takes them apart into
// vectors of one coordinate each, and puts results together again, in registers.
#pragma once

#include "cpu/elementwise.h"
#include "cpu/pair_operands.h"

namespace handgrad {
namespace detail {

// Four numbers of a run.
template <class C>
HANDGRAD_MATH Box<C> row(const C* run, int64_t i) {
  return {run[4 * i], run[4 * i + 1], run[4 * i + 2], run[4 * i + 3]};
}
template <class C>
HANDGRAD_MATH void set_row(C* run, int64_t i, const Box<C>& box) {
  run[4 * i] = box.x1, run[4 * i + 1] = box.y1, run[4 * i + 2] = box.x2, run[4 * i + 3] = box.y2;
}

// The loop over a run of a multiple of kLanes pairs; `runs` are the operands'.
template <class C>
using PairLoop = void (*)(const void* body, int64_t count, C* const* runs);

// One pair of a run. All is read before anything is written, and in a function of its own: in the loop itself the
// compiler would keep each structure in memory, in an array of them.
template <class C, class Body>
HANDGRAD_MATH void step(const Body& body, int64_t i, C* const (&runs)[kPairOperands]) {
  PairInputs<C> in{};
  in.boxes1 = row(runs[kBoxes1], i);
  in.boxes2 = row(runs[kBoxes2], i);
  if constexpr (Body::kReads & bit(kDirection1)) in.direction1 = row(runs[kDirection1], i);
  if constexpr (Body::kReads & bit(kDirection2)) in.direction2 = row(runs[kDirection2], i);
  if constexpr (Body::kReads & bit(kGradOutput)) in.grad_output = runs[kGradOutput][i];
  const PairResults<C> out = body(in);
  if constexpr (Body::kWrites & bit(kLoss)) runs[kLoss][i] = out.loss;
  if constexpr (Body::kWrites & bit(kGrad1)) set_row(runs[kGrad1], i, out.grad1);
  if constexpr (Body::kWrites & bit(kGrad2)) set_row(runs[kGrad2], i, out.grad2);
}

template <class C, class Body>
void pair_loop(const void* memory, int64_t count, C* const* operands) {
  const Body body = *static_cast<const Body*>(memory);
  C* const runs[kPairOperands] = {operands[0], operands[1], operands[2], operands[3],
                                  operands[4], operands[5], operands[6], operands[7]};
  const int64_t whole = count & -kLanes;
  HANDGRAD_SIMD
  for (int64_t i = 0; i < whole; ++i) step<C>(body, i, runs);
}

// All that a loop over pairs is, but for its formula: what follows exists once for each type C.
template <class C>
struct PairJob {
  ElementLoop pairs;
  const PairOperands& operands;
  unsigned reads, writes;
  PairLoop<C> loop;
  const void* body;

  bool is_touched(int k) const { return (reads | writes) >> k & 1; }
  bool in_place(int k) const { return operands.all[k].dtype == kDtype<C> && operands.is_dense(pairs, k); }
};

// Rows of any strides to a run of C, and back: each coordinate by itself, if they are not rows of a dense tensor.
template <class C>
void load_rows(const PairJob<C>& job, int k, int64_t begin, int64_t count, C* run) {
  const Operand& operand = job.operands.all[k];
  const int64_t stride = job.pairs.stride(k), step = job.operands.coordinate_strides[k];
  alignas(64) C columns[4][kBlock];
  job.pairs.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    C* to = run + 4 * position;
    if (stride == 4 && step == 1) {
      load_run(operand.dtype, operand.data, offset, 1, 4 * length, to);
      return;
    }
    for (int64_t c = 0; c < 4; ++c) {
      load_run(operand.dtype, operand.data, offset + c * step, stride, length, columns[c]);
    }
    HANDGRAD_SIMD
    for (int64_t i = 0; i < length; ++i) {
      to[4 * i] = columns[0][i], to[4 * i + 1] = columns[1][i];
      to[4 * i + 2] = columns[2][i], to[4 * i + 3] = columns[3][i];
    }
  });
}
template <class C>
void store_rows(const PairJob<C>& job, int k, int64_t begin, int64_t count, const C* run) {
  const Operand& operand = job.operands.all[k];
  const int64_t stride = job.pairs.stride(k), step = job.operands.coordinate_strides[k];
  alignas(64) C columns[4][kBlock];
  job.pairs.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    const C* from = run + 4 * position;
    if (stride == 4 && step == 1) {
      store_run(operand.dtype, from, 4 * length, operand.data, offset, 1);
      return;
    }
    HANDGRAD_SIMD
    for (int64_t i = 0; i < length; ++i) {
      columns[0][i] = from[4 * i], columns[1][i] = from[4 * i + 1];
      columns[2][i] = from[4 * i + 2], columns[3][i] = from[4 * i + 3];
    }
    for (int64_t c = 0; c < 4; ++c) {
      store_run(operand.dtype, columns[c], length, operand.data, offset + c * step, stride);
    }
  });
}

template <class C>
void load_numbers(const PairJob<C>& job, int k, int64_t begin, int64_t count, C* run) {
  const Operand& operand = job.operands.all[k];
  job.pairs.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    load_run(operand.dtype, operand.data, offset, job.pairs.stride(k), length, run + position);
  });
}
template <class C>
void store_numbers(const PairJob<C>& job, int k, int64_t begin, int64_t count, const C* run) {
  const Operand& operand = job.operands.all[k];
  job.pairs.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    store_run(operand.dtype, run + position, length, operand.data, offset, job.pairs.stride(k));
  });
}

// Runs of operands that do not lie in memory as the loop wants them.
template <class C>
struct PairBuffers {
  alignas(64) C memory[kPairOperands][4 * kBlock];

  // What is the same for all pairs is written once.
  explicit PairBuffers(const PairJob<C>& job) {
    const Operand& grad = job.operands.all[kGradOutput];
    if (grad.data && !grad.strides) {
      C value;
      load_run(grad.dtype, grad.data, 0, 0, 1, &value);
      std::fill_n(memory[kGradOutput], kBlock, value * static_cast<C>(job.operands.factor));
    }
    for (const int k : {kDirection1, kDirection2}) {
      if (!job.operands.all[k].data) std::fill_n(memory[k], 4 * kBlock, C(0));
    }
  }

  void load(const PairJob<C>& job, int k, int64_t begin, int64_t count, int64_t filled) {
    if (!job.operands.all[k].strides || is_result(k)) return;
    if (is_box(k)) {
      load_rows(job, k, begin, count, memory[k]);
      std::fill(memory[k] + 4 * count, memory[k] + 4 * filled, C(0));
    } else {
      load_numbers(job, k, begin, count, memory[k]);
      std::fill(memory[k] + count, memory[k] + filled, C(0));
    }
  }
  void store(const PairJob<C>& job, int k, int64_t begin, int64_t count) const {
    if (!job.operands.all[k].data) return;
    if (is_box(k)) {
      store_rows(job, k, begin, count, memory[k]);
    } else {
      store_numbers(job, k, begin, count, memory[k]);
    }
  }
};

// The pairs [begin, end); returns the sum of their losses, if it is asked for.
template <class C>
[[gnu::noipa]] double run_pairs(const PairJob<C>& job, int64_t begin, int64_t end) {
  PairBuffers<C> buffers(job);
  C* runs[kPairOperands] = {};
  BlockSums sums;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = std::min(kBlock, end - first), filled = (count + kLanes - 1) & -kLanes;
    for (int k = 0; k < kPairOperands; ++k) {
      if (!job.is_touched(k)) continue;
      if (filled == count && job.in_place(k)) {
        runs[k] = static_cast<C*>(job.operands.all[k].data) + (is_box(k) ? 4 : 1) * first;
      } else {
        runs[k] = buffers.memory[k];
        buffers.load(job, k, first, count, filled);
      }
    }
    job.loop(job.body, filled, runs);
    if (job.operands.sum.total) sums.add(runs[kLoss], count);
    for (int k = kLoss; k < kPairOperands; ++k) {
      if (job.is_touched(k) && runs[k] == buffers.memory[k]) buffers.store(job, k, first, count);
    }
  }
  return job.operands.sum.total ? sums.total() : 0.0;
}

template <class C>
[[gnu::noipa]] void run_all_pairs(const PairJob<C>& job) {
  const int64_t count = job.pairs.numel();
  const Output& sum = job.operands.sum;
  if (!sum.total) {
    // A pair is some eight numbers of work.
    parallel_for((count + kBlock - 1) / kBlock, 8 * kBlock,
                 [&](int64_t begin, int64_t end) { run_pairs(job, begin * kBlock, std::min(count, end * kBlock)); });
    return;
  }
  const double total =
      parallel_sum(count, kChunk, [&](int64_t begin, int64_t end) { return run_pairs(job, begin, end); });
  const C value = static_cast<C>(total / sum.divisor);
  store_run(kDtype<C>, &value, 1, sum.total->mutable_data_ptr(), 0, 0);
}

}  // namespace detail

// body on every pair of boxes, computed in C; `boxes`, [..., 4], has the shape of all of them.
template <class C, class Body>
void for_each_pair(const Tensor& boxes, const Body& body, const PairOperands& operands) {
  detail::run_all_pairs<C>(
      {operands.loop(boxes), operands, Body::kReads, Body::kWrites, &detail::pair_loop<C, Body>, &body});
}

// What host entries that serve several devices call (kinds/).
struct PairsOnCpu {
  template <class C, class Body>
  static void for_each_pair(const char* /*op*/, const char* /*pass*/, const Tensor& boxes, const Body& body,
                            const PairOperands& operands) {
    handgrad::for_each_pair<C>(boxes, body, operands);
  }
};

}  // namespace handgrad
