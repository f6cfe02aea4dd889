// Loops over pairs of boxes, whatever their strides and dtype, a body of one pair in (pair_operands.h); sums over them.
//
// As in elementwise.h the loop around the body is compiled once for each type that it computes in, and sees short runs
// of it: rows of a box, one after the other, as a dense tensor of boxes has them anyway. The loop takes them apart into
// vectors of one coordinate each, and puts results together again, in registers.
#pragma once

#include "cpu/elementwise.h"
#include "cpu/pair_operands.h"

namespace handgrad {
namespace detail {

// The loop over a run of a multiple of kLanes pairs; `runs` are the operands'.
template <class C>
using PairLoop = void (*)(const void* body, int64_t count, C* const* runs);

// One pair of a run, whose rows are RowStep apart, and the numbers of each NumberStep. All is read before anything is
// written, and in a function of its own: in the loop itself the compiler would keep each structure in memory, in an
// array of them.
template <class C, int64_t RowStep, int64_t NumberStep, class Body>
HANDGRAD_MATH void step(const Body& body, int64_t i, C* const (&runs)[kPairOperands]) {
  using Row = RowOf<C, Body>;
  PairInputs<C, Row> in{};
  read_numbers(runs[kBoxes1] + RowStep * i, NumberStep, in.boxes1);
  read_numbers(runs[kBoxes2] + RowStep * i, NumberStep, in.boxes2);
  if constexpr (Body::kReads & bit(kDirection1))
    read_numbers(runs[kDirection1] + RowStep * i, NumberStep, in.direction1);
  if constexpr (Body::kReads & bit(kDirection2))
    read_numbers(runs[kDirection2] + RowStep * i, NumberStep, in.direction2);
  if constexpr (Body::kReads & bit(kGradOutput)) in.grad_output = runs[kGradOutput][i];
  const PairResults<C, Row> out = body(in);
  if constexpr (Body::kWrites & bit(kLoss)) runs[kLoss][i] = out.loss;
  if constexpr (Body::kWrites & bit(kGrad1)) write_numbers(out.grad1, runs[kGrad1] + RowStep * i, NumberStep);
  if constexpr (Body::kWrites & bit(kGrad2)) write_numbers(out.grad2, runs[kGrad2] + RowStep * i, NumberStep);
}

template <class C, class Body>
void pair_loop(const void* memory, int64_t count, C* const* operands) {
  const Body body = *static_cast<const Body*>(memory);
  C* const runs[kPairOperands] = {operands[0], operands[1], operands[2], operands[3],
                                  operands[4], operands[5], operands[6], operands[7]};
  constexpr int64_t columns = RowOf<C, Body>::kColumns;
  if constexpr (columns == 4) {
    const int64_t whole = count & -kLanes;
    HANDGRAD_SIMD
    for (int64_t i = 0; i < whole; ++i) step<C, columns, 1>(body, i, runs);
  } else {
    // No vector instruction takes rows of five apart: they are taken apart before, some at a time.
    alignas(64) C apart[kPairOperands][columns * kLanes];
    for (int64_t first = 0; first < (count & -kLanes); first += kLanes) {
      C* lanes[kPairOperands];
      for (int k = 0; k < kPairOperands; ++k) {
        lanes[k] = is_box(k) || !runs[k] ? apart[k] : runs[k] + first;
        if (!is_box(k) || !(Body::kReads >> k & 1)) continue;
        const C* from = runs[k] + columns * first;
        for (int64_t i = 0; i < kLanes; ++i) {
          for (int64_t c = 0; c < columns; ++c) apart[k][c * kLanes + i] = from[columns * i + c];
        }
      }
      C* const(&operands_apart)[kPairOperands] = lanes;
      HANDGRAD_SIMD
      for (int64_t i = 0; i < kLanes; ++i) step<C, 1, kLanes>(body, i, operands_apart);
      for (const int k : {kGrad1, kGrad2}) {
        if (!(Body::kWrites >> k & 1)) continue;
        C* to = runs[k] + columns * first;
        for (int64_t i = 0; i < kLanes; ++i) {
          for (int64_t c = 0; c < columns; ++c) to[columns * i + c] = apart[k][c * kLanes + i];
        }
      }
    }
  }
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
  const int64_t columns = job.operands.columns;
  alignas(64) C column[kBlock];
  job.pairs.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    C* to = run + columns * position;
    if (stride == columns && step == 1) {
      load_run(operand.dtype, operand.data, offset, 1, columns * length, to);
      return;
    }
    for (int64_t c = 0; c < columns; ++c) {
      load_run(operand.dtype, operand.data, offset + c * step, stride, length, column);
      for (int64_t i = 0; i < length; ++i) to[columns * i + c] = column[i];
    }
  });
}
template <class C>
void store_rows(const PairJob<C>& job, int k, int64_t begin, int64_t count, const C* run) {
  const Operand& operand = job.operands.all[k];
  const int64_t stride = job.pairs.stride(k), step = job.operands.coordinate_strides[k];
  const int64_t columns = job.operands.columns;
  alignas(64) C column[kBlock];
  job.pairs.for_each_run(k, begin, count, [&](int64_t offset, int64_t length, int64_t position) {
    const C* from = run + columns * position;
    if (stride == columns && step == 1) {
      store_run(operand.dtype, from, columns * length, operand.data, offset, 1);
      return;
    }
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < length; ++i) column[i] = from[columns * i + c];
      store_run(operand.dtype, column, length, operand.data, offset + c * step, stride);
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
  alignas(64) C memory[kPairOperands][kMostColumns * kBlock];

  // What is the same for all pairs is written once.
  explicit PairBuffers(const PairJob<C>& job) {
    const Operand& grad = job.operands.all[kGradOutput];
    if (grad.data && !grad.strides) {
      C value;
      load_run(grad.dtype, grad.data, 0, 0, 1, &value);
      std::fill_n(memory[kGradOutput], kBlock, value * static_cast<C>(job.operands.factor));
    }
    for (const int k : {kDirection1, kDirection2}) {
      if (!job.operands.all[k].data) std::fill_n(memory[k], kMostColumns * kBlock, C(0));
    }
  }

  void load(const PairJob<C>& job, int k, int64_t begin, int64_t count, int64_t filled) {
    if (!job.operands.all[k].strides || is_result(k)) return;
    if (is_box(k)) {
      load_rows(job, k, begin, count, memory[k]);
      std::fill(memory[k] + job.operands.columns * count, memory[k] + job.operands.columns * filled, C(0));
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
        runs[k] = static_cast<C*>(job.operands.all[k].data) + (is_box(k) ? job.operands.columns : 1) * first;
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
