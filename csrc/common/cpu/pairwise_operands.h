// The operands of a loss of all pairs of queries and keys, matrix by matrix, for both devices.
#pragma once

#include <optional>

#include "abi/tensor.h"
#include "abi/view.h"
#include "math/pairwise.h"

namespace handgrad {

// What is None, or not asked for, is not there. Losses and scales are of the type that is computed in.
struct PairwiseOperands {
  PairRule rule;
  Tensor queries, keys, scale;  // [B, N, D], [B, M, D], [B]
  int64_t offset = 0;
  bool shared = false;                              // the keys are the queries, whose gradient is that of both
  bool reduced = false;                             // the losses are summed
  std::optional<Tensor> bias;                       // [B]
  std::optional<Tensor> labels, key_labels;         // [B, N], [B, M], contiguous
  std::optional<Tensor> grad_output;                // [B, N], or [] where the losses are reduced
  std::optional<Tensor> queries_along, keys_along;  // as queries, keys
  std::optional<Tensor> scale_along, bias_along;    // [B]
  std::optional<Tensor> losses;                     // as grad_output, contiguous: also of grad_grad_output
  std::optional<Tensor> grad_queries, grad_keys;    // as queries, keys, contiguous
  std::optional<Tensor> grad_scale, grad_bias;      // [B], contiguous

  PairwiseOperands(const PairRule& rule, const Tensor& queries, const Tensor& keys, const Tensor& scale)
      : rule(rule), queries(queries), keys(keys), scale(scale) {}

  int64_t batch() const { return queries.sizes()[0]; }
  int64_t rows() const { return queries.sizes()[1]; }
  int64_t columns() const { return keys.sizes()[1]; }
  int64_t features() const { return queries.sizes()[2]; }
  bool has_directions() const { return queries_along || keys_along || scale_along || bias_along; }

  Pairing pairing(int64_t b) const {
    Pairing of{rule.positives, rule.skips_self, rows(), columns(), offset, nullptr, nullptr};
    if (labels) of.labels = labels->const_data_ptr<int64_t>() + b * rows();
    if (key_labels) of.key_labels = key_labels->const_data_ptr<int64_t>() + b * columns();
    return of;
  }
};

// How many rows of the matrix are in memory at once, of `elements` in all and at least a quarter of `most`, which are
// what products of matrices are fast with.
inline int64_t rows_at_once(int64_t rows, int64_t columns, int64_t elements, int64_t most) {
  const int64_t room = elements / (columns > 0 ? columns : 1) / 16 * 16, least = most / 4;
  const int64_t chunk = room < least ? least : room < most ? room : most;
  return chunk < rows ? chunk : rows;
}

}  // namespace handgrad
