// What is around an image, for filters whose windows reach beyond it.
#pragma once

#include <cstdint>

#include "abi/macros.h"

namespace handgrad {

// Mirrored without the border's own pixels once more, the last pixel again and again, zeros, or the other side.
enum Border : int32_t { kReflect, kReplicate, kConstant, kCircular };

// The pixel that is seen at index i of an axis, or -1 where zeros are. Any pixel beyond what windows reach.
HANDGRAD_MATH int64_t border_index(Border border, int64_t i, int64_t size) {
  if (i >= 0 && i < size) return i;
  if (border == kConstant) return -1;
  if (border == kCircular) {
    const int64_t rest = i % size;
    return rest < 0 ? rest + size : rest;
  }
  if (border == kReflect) i = i < 0 ? -i : 2 * (size - 1) - i;
  return i < 0 ? 0 : i < size ? i : size - 1;
}
// Whether pixels are seen behind the border where no window has its middle: then gradients come back from there.
HANDGRAD_MATH bool folds(Border border) { return border == kReflect || border == kReplicate; }
// Whether windows that reach so far beyond an axis find what they look for.
HANDGRAD_MATH bool fits(Border border, int64_t reach, int64_t size) {
  return border == kReflect ? reach < size : border != kCircular || reach <= size;
}

// Where a pixel is seen along an axis: 0 at its own index, and if the border folds 1 before the axis and 2 behind it.
// Each is a range of indices, [first, last), which may be empty.
struct Sights {
  int64_t own, before = 0, before_end = 0, behind = 0, behind_end = 0;

  HANDGRAD_MATH Sights(Border border, int64_t i, int64_t size, int64_t reach) : own(i) {
    if (border == kReflect) {
      const int64_t mirrored = 2 * (size - 1) - i;
      if (i > 0 && i <= reach) before = -i, before_end = 1 - i;
      if (mirrored >= size && mirrored < size + reach) behind = mirrored, behind_end = mirrored + 1;
    } else if (border == kReplicate) {
      if (i == 0) before = -reach;
      if (i == size - 1) behind = size, behind_end = size + reach;
    }
  }
  // Selected, not indexed: an array would be in a device's memory.
  HANDGRAD_MATH int64_t first(int32_t k) const { return k == 0 ? own : k == 1 ? before : behind; }
  HANDGRAD_MATH int64_t last(int32_t k) const { return k == 0 ? own + 1 : k == 1 ? before_end : behind_end; }
};

}  // namespace handgrad
