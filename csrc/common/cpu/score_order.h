// Boxes in the order of their scores, class by class, and the indices of those that are kept.
#pragma once

#include <vector>

#include "abi/dtype.h"
#include "abi/view.h"
#include "cpu/sort.h"
#include "math/convert.h"

namespace handgrad {

// All boxes by decreasing score.
template <class T>
std::vector<uint32_t> order_by_score(const Tensor& tensor) {  // [K]
  using C = Compute<T>;
  using Key = decltype(descending_key(C()));
  const View<const T, 1> scores = view<T, 1>(tensor);
  const int64_t count = tensor.size(0);
  std::vector<Entry<Key>> entries(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    entries[i] = {descending_key(widen(*scores.at(i))), static_cast<uint32_t>(i)};
  }
  sort_by_key(entries);
  std::vector<uint32_t> order(entries.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = entries[i].index;
  return order;
}

// The same boxes class by class, and where each class begins.
inline std::vector<uint32_t> order_by_class(const std::vector<uint32_t>& order, const Tensor& idxs,  // [K]
                                            std::vector<int64_t>& begins) {
  const View<const int64_t, 1> classes = view<int64_t, 1>(idxs);
  std::vector<Entry<uint64_t>> entries(order.size());
  for (size_t i = 0; i < order.size(); ++i) entries[i] = {static_cast<uint64_t>(*classes.at(order[i])), order[i]};
  sort_by_key(entries);
  std::vector<uint32_t> grouped(order.size());
  for (size_t i = 0; i < grouped.size(); ++i) {
    grouped[i] = entries[i].index;
    if (i == 0 || entries[i].key != entries[i - 1].key) begins.push_back(static_cast<int64_t>(i));
  }
  return grouped;
}

// The indices of the boxes that are kept, in their order.
inline Tensor kept_in_order(const std::vector<uint32_t>& order, const std::vector<uint8_t>& kept, const Tensor& boxes) {
  int64_t total = 0;
  for (const uint8_t one : kept) total += one;
  const Tensor output = empty_indices(total, boxes);
  int64_t* out = output.mutable_data_ptr<int64_t>();
  for (const uint32_t box : order) {
    if (kept[box]) *out++ = box;
  }
  return output;
}

}  // namespace handgrad
