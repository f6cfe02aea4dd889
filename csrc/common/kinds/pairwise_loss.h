// A loss of all pairs of queries and keys, whose matrix is never stored: everything of the host entries but which pairs
// count, and how.
//
// An op says it with a rule (math/pairwise.h):
//
//   struct MyLossOp {
//     static constexpr const char* name = "my_loss";
//     static constexpr PairRule rule{PairwiseLoss::row_softmax, Positives::same_index, false};
//   };
//
// Its schema follows from the rule: (queries [B, N, D], keys? [B, M, D], scale [B], int offset, int reduction), with
// labels [B, N] and key_labels? [B, M] before the scale for Positives::same_label, and a bias [B] behind it for
// PairwiseLoss::sigmoid. Where rows are no candidates of their own, keys that are None are the queries. Its _cpu.cpp is
// this header, cpu/pairwise.h and one line,
//
//   handgrad::pairwise_loss::implement<MyLossOp, handgrad::PairwiseLossOnCpu>(library);
//
// and its _cuda.cu the same with cuda/pairwise.cuh and PairwiseLossOnCuda. Queries and keys may be of half types;
// products, losses, scale and bias are of the type that these are computed in. The reductions are none and sum: a mean
// is a sum divided in Python.
#pragma once

#include <string>

#include "abi/dtype.h"
#include "abi/output_mask.h"
#include "abi/reduction.h"
#include "cpu/pairwise_operands.h"
#include "kinds/formula.h"

namespace handgrad::pairwise_loss {

// ---- checks, and the results to be filled ---------------------------------------------------------------------------

inline ScalarType computed_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
inline void check_computed(const char* op, const char* argument, const Tensor& tensor, const Tensor& queries) {
  HANDGRAD_CHECK(tensor.scalar_type() == computed_dtype(queries), op, ": ", argument, " must be ",
                 dtype_text(computed_dtype(queries)), " beside queries of ", dtype_text(queries.scalar_type()),
                 "; got ", dtype_text(tensor.scalar_type()));
  check_device(op, argument, tensor, "queries", queries);
}

inline Tensor empty_computed(Sizes sizes, const Tensor& queries) {
  const std::vector<int64_t> strides = contiguous_strides(sizes);
  const bool wide = computed_dtype(queries) == ScalarType::Double;
  return empty_strided(sizes, Sizes(strides.data(), strides.size()),
                       wide ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(), queries);
}
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

using MaybeTensor = std::optional<Tensor>;
using Mask = std::vector<bool>;

// The tensors of a call; what an op has not is none.
struct Given {
  const Tensor& queries;
  const MaybeTensor& keys;
  const Tensor& scale;
  MaybeTensor labels, key_labels, bias;
};

inline void check_labels(const char* op, const char* argument, const Tensor& labels, int64_t count,
                         const Tensor& queries) {
  HANDGRAD_CHECK(labels.scalar_type() == ScalarType::Long, op, ": ", argument, " must be int64; got ",
                 dtype_text(labels.scalar_type()));
  check_shape(op, argument, labels, {queries.sizes()[0], count}, "(batch, rows)");
  check_device(op, argument, labels, "queries", queries);
}

inline void check_pairs(const char* op, const PairRule& rule, int64_t rows, int64_t columns, int64_t offset) {
  HANDGRAD_CHECK(offset >= 0 && offset + rows <= columns, op, ": keys must have a row for each of the ", rows,
                 " queries from the ", offset, "th on; got ", columns);
  HANDGRAD_CHECK(rule.loss != PairwiseLoss::both_softmax || rows == columns, op, ": keys must be as many as queries, ",
                 rows, "; got ", columns);
  HANDGRAD_CHECK(rule.positives != Positives::other_view || rows % 2 == 0, op,
                 ": queries must be an even number of rows, two views; got ", rows);
}

// What a call is, checked; its results are still to be set.
inline PairwiseOperands checked(const char* op, const PairRule& rule, const Given& given, int64_t offset,
                                int64_t reduction_code) {
  const Tensor& queries = given.queries;
  check_floating(op, "queries", queries);
  check_rank(op, "queries", queries, 3, "(batch, queries, features)");
  HANDGRAD_CHECK(given.keys || rule.skips_self, op, ": keys must be a tensor; got None");
  const Tensor& keys = given.keys ? *given.keys : queries;
  check_rank(op, "keys", keys, 3, "(batch, keys, features)");
  check_dtype_and_device(op, "keys", keys, "queries", queries);
  const int64_t batch = queries.sizes()[0], rows = queries.sizes()[1], columns = keys.sizes()[1];
  check_shape(op, "keys", keys, {batch, columns, queries.sizes()[2]}, "(batch, keys, features)");
  check_shape(op, "scale", given.scale, {batch}, "(batch,)");
  check_computed(op, "scale", given.scale, queries);
  check_pairs(op, rule, rows, columns, offset);
  PairwiseOperands of(rule, queries, keys, given.scale);
  of.offset = offset;
  of.shared = !given.keys;
  of.reduced = as_reduction(op, reduction_code) == Reduction::sum;
  HANDGRAD_CHECK(of.reduced || as_reduction(op, reduction_code) == Reduction::none, op,
                 ": reduction must be 0 (none) or 2 (sum); got ", reduction_code);
  if (given.bias) {
    check_shape(op, "bias", *given.bias, {batch}, "(batch,)");
    check_computed(op, "bias", *given.bias, queries);
    of.bias = *given.bias;
  }
  if (given.labels) {
    check_labels(op, "labels", *given.labels, rows, queries);
    const Tensor& key_labels = given.key_labels ? *given.key_labels : *given.labels;
    check_labels(op, "key_labels", key_labels, columns, queries);
    of.labels = dense(*given.labels), of.key_labels = dense(key_labels);
  }
  return of;
}

inline Tensor empty_losses(const PairwiseOperands& of) {
  return of.reduced ? empty_computed(Sizes(), of.queries)
                    : empty_computed(Sizes(of.queries.sizes().data(), 2), of.queries);
}

inline void set_grad_output(const char* op, PairwiseOperands& of, const Tensor& grad_output) {
  const Sizes sizes = grad_output.sizes();
  const bool fits =
      of.reduced ? sizes.size() == 0 : sizes.size() == 2 && sizes[0] == of.batch() && sizes[1] == of.rows();
  HANDGRAD_CHECK(fits, op, ": grad_output must have the shape of the loss; got ", shape_text(grad_output));
  check_computed(op, "grad_output", grad_output, of.queries);
  of.grad_output = grad_output;
}

// The results of a backward: gradients of the queries, the keys, the scale, and the bias if there is one.
struct Gradients {
  Tensor queries, keys, scale, bias;

  Gradients(PairwiseOperands& of, bool want_queries, bool want_keys, bool want_scale, bool want_bias)
      : queries(result(of, want_queries, of.queries, of.grad_queries)),
        keys(result(of, want_keys && !of.shared, of.keys, of.grad_keys)),
        scale(result(of, want_scale, of.scale, of.grad_scale)),
        bias(result(of, want_bias, of.bias ? *of.bias : of.scale, of.grad_bias)) {}
  static bool any(const PairwiseOperands& of) {
    return of.grad_queries || of.grad_keys || of.grad_scale || of.grad_bias || of.losses;
  }

 private:
  static Tensor result(const PairwiseOperands&, bool wanted, const Tensor& like, std::optional<Tensor>& to) {
    if (!wanted) return empty_placeholder(like);
    to = empty_contiguous(like.sizes(), like);
    return *to;
  }
};

// ---- what all schemas share -----------------------------------------------------------------------------------------

template <class Op, class Device>
struct Passes {
  static constexpr PairRule kRule = Op::rule;

  static Tensor forward(const Given& given, int64_t offset, int64_t reduction) {
    PairwiseOperands of = checked(Op::name, kRule, given, offset, reduction);
    of.losses = empty_losses(of);
    dispatch_compute(Op::name, of.queries.scalar_type(), [&](auto tag) {
      Device::template forward<kRule.loss, typename decltype(tag)::type>(Op::name, of);
    });
    return *of.losses;
  }

  static Gradients backward(const Tensor& grad_output, const Given& given, int64_t offset, int64_t reduction,
                            const std::array<bool, 4>& need) {
    PairwiseOperands of = checked(Op::name, kRule, given, offset, reduction);
    set_grad_output(Op::name, of, grad_output);
    const Gradients results(of, need[0], need[1], need[2], need[3]);
    if (!Gradients::any(of)) return results;
    dispatch_compute(Op::name, of.queries.scalar_type(), [&](auto tag) {
      Device::template backward<kRule.loss, typename decltype(tag)::type>(Op::name, of);
    });
    return results;
  }

  // Along a direction for each gradient; none: zero.
  struct Along {
    const std::optional<Tensor>&queries, &keys, &scale, &bias;
  };
  static std::pair<Tensor, Gradients> double_backward(const Along& along, const Tensor& grad_output, const Given& given,
                                                      int64_t offset, int64_t reduction,
                                                      const std::array<bool, 5>& need) {
    PairwiseOperands of = checked(Op::name, kRule, given, offset, reduction);
    set_grad_output(Op::name, of, grad_output);
    if (along.queries) check_like(Op::name, "grad_grad_queries", *along.queries, "queries", of.queries);
    if (along.keys) check_like(Op::name, "grad_grad_keys", *along.keys, "keys", of.keys);
    if (along.scale) check_like(Op::name, "grad_grad_scale", *along.scale, "scale", of.scale);
    if (along.bias) check_like(Op::name, "grad_grad_bias", *along.bias, "bias", of.scale);
    of.queries_along = along.queries, of.keys_along = of.shared ? along.queries : along.keys;
    of.scale_along = along.scale, of.bias_along = along.bias;
    const Tensor grad_grad_output = need[0] ? empty_losses(of) : empty_placeholder(of.scale);
    if (need[0]) of.losses = grad_grad_output;
    const Gradients results(of, need[1], need[2], need[3], need[4]);
    if (!Gradients::any(of)) return {grad_grad_output, results};
    dispatch_compute(Op::name, of.queries.scalar_type(), [&](auto tag) {
      Device::template double_backward<kRule.loss, typename decltype(tag)::type>(Op::name, of);
    });
    return {grad_grad_output, results};
  }
};

// ---- host entries, by schema ----------------------------------------------------------------------------------------

template <class Op, class Device>
struct Plain {
  using Of = Passes<Op, Device>;

  static Tensor forward(const Tensor& queries,    // [B, N, D]
                        const MaybeTensor& keys,  // [B, M, D]
                        const Tensor& scale,      // [B]
                        int64_t offset, int64_t reduction) {
    return Of::forward({queries, keys, scale, {}, {}, {}}, offset, reduction);
  }
  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss
                                                     const Tensor& queries, const MaybeTensor& keys,
                                                     const Tensor& scale, int64_t offset, int64_t reduction,
                                                     const Mask& output_mask) {
    const auto need = as_output_mask<3>(Op::name, output_mask);
    const Gradients results = Of::backward(grad_output, {queries, keys, scale, {}, {}, {}}, offset, reduction,
                                           {need[0], need[1], need[2], false});
    return {results.queries, results.keys, results.scale};
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
      const MaybeTensor& grad_grad_queries, const MaybeTensor& grad_grad_keys, const MaybeTensor& grad_grad_scale,
      const Tensor& grad_output, const Tensor& queries, const MaybeTensor& keys, const Tensor& scale, int64_t offset,
      int64_t reduction, const Mask& output_mask) {
    const auto need = as_output_mask<4>(Op::name, output_mask);
    const MaybeTensor none;
    const auto [grad_grad_output, results] = Of::double_backward(
        {grad_grad_queries, grad_grad_keys, grad_grad_scale, none}, grad_output, {queries, keys, scale, {}, {}, {}},
        offset, reduction, {need[0], need[1], need[2], need[3], false});
    return {grad_grad_output, results.queries, results.keys, results.scale};
  }
};

template <class Op, class Device>
struct Biased {
  using Of = Passes<Op, Device>;

  static Tensor forward(const Tensor& queries,    // [B, N, D]
                        const MaybeTensor& keys,  // [B, M, D]
                        const Tensor& scale,      // [B]
                        const Tensor& bias,       // [B]
                        int64_t offset, int64_t reduction) {
    return Of::forward({queries, keys, scale, {}, {}, bias}, offset, reduction);
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss
                                                             const Tensor& queries, const MaybeTensor& keys,
                                                             const Tensor& scale, const Tensor& bias, int64_t offset,
                                                             int64_t reduction, const Mask& output_mask) {
    const auto need = as_output_mask<4>(Op::name, output_mask);
    const Gradients results = Of::backward(grad_output, {queries, keys, scale, {}, {}, bias}, offset, reduction, need);
    return {results.queries, results.keys, results.scale, results.bias};
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> double_backward(
      const MaybeTensor& grad_grad_queries, const MaybeTensor& grad_grad_keys, const MaybeTensor& grad_grad_scale,
      const MaybeTensor& grad_grad_bias, const Tensor& grad_output, const Tensor& queries, const MaybeTensor& keys,
      const Tensor& scale, const Tensor& bias, int64_t offset, int64_t reduction, const Mask& output_mask) {
    const auto need = as_output_mask<5>(Op::name, output_mask);
    const auto [grad_grad_output, results] =
        Of::double_backward({grad_grad_queries, grad_grad_keys, grad_grad_scale, grad_grad_bias}, grad_output,
                            {queries, keys, scale, {}, {}, bias}, offset, reduction, need);
    return {grad_grad_output, results.queries, results.keys, results.scale, results.bias};
  }
};

template <class Op, class Device>
struct Labelled {
  using Of = Passes<Op, Device>;

  static Tensor forward(const Tensor& queries,          // [B, N, D]
                        const MaybeTensor& keys,        // [B, M, D]
                        const Tensor& labels,           // [B, N]
                        const MaybeTensor& key_labels,  // [B, M]
                        const Tensor& scale,            // [B]
                        int64_t offset, int64_t reduction) {
    return Of::forward({queries, keys, scale, labels, key_labels, {}}, offset, reduction);
  }
  static std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output,  // as the loss
                                                     const Tensor& queries, const MaybeTensor& keys,
                                                     const Tensor& labels, const MaybeTensor& key_labels,
                                                     const Tensor& scale, int64_t offset, int64_t reduction,
                                                     const Mask& output_mask) {
    const auto need = as_output_mask<3>(Op::name, output_mask);
    const Gradients results = Of::backward(grad_output, {queries, keys, scale, labels, key_labels, {}}, offset,
                                           reduction, {need[0], need[1], need[2], false});
    return {results.queries, results.keys, results.scale};
  }
  static std::tuple<Tensor, Tensor, Tensor, Tensor> double_backward(
      const MaybeTensor& grad_grad_queries, const MaybeTensor& grad_grad_keys, const MaybeTensor& grad_grad_scale,
      const Tensor& grad_output, const Tensor& queries, const MaybeTensor& keys, const Tensor& labels,
      const MaybeTensor& key_labels, const Tensor& scale, int64_t offset, int64_t reduction, const Mask& output_mask) {
    const auto need = as_output_mask<4>(Op::name, output_mask);
    const MaybeTensor none;
    const auto [grad_grad_output, results] = Of::double_backward(
        {grad_grad_queries, grad_grad_keys, grad_grad_scale, none}, grad_output,
        {queries, keys, scale, labels, key_labels, {}}, offset, reduction, {need[0], need[1], need[2], need[3], false});
    return {grad_grad_output, results.queries, results.keys, results.scale};
  }
};

// Registers an op's three entries on a device.
template <class Op, class Device, class Library>
void implement(Library& library) {
  constexpr bool labelled = Op::rule.positives == Positives::same_label,
                 biased = Op::rule.loss == PairwiseLoss::sigmoid;
  static_assert(!(labelled && biased), "there is no schema of a loss with labels and a bias");
  using Of = std::conditional_t<labelled, Labelled<Op, Device>,
                                std::conditional_t<biased, Biased<Op, Device>, Plain<Op, Device>>>;
  implement_differentiable<&Of::forward, &Of::backward, &Of::double_backward>(library, Op::name);
}

}  // namespace handgrad::pairwise_loss
