// Which pixels become one where an image is halved along each of its axes.
#pragma once

#include "math/stored.h"

namespace handgrad {

// Where the pixels of a row of the result begin.
struct HalvedRow {
  int64_t n, c, slice, line;
};

struct Halving {
  int64_t batch, channels;
  // Of the result; of a plane, axis 0 has one slice and is not halved.
  int64_t extent[3] = {1, 1, 1};
  int32_t count;

  HANDGRAD_MATH int64_t rows() const { return batch * channels * extent[0] * extent[1]; }
  HANDGRAD_MATH int rows_of_one() const { return count == 2 ? 2 : 4; }

  HANDGRAD_MATH HalvedRow row(int64_t row) const {
    const int64_t outer = row / extent[1], plane = outer / extent[0], n = plane / channels;
    const int64_t slice = outer - plane * extent[0];
    return {n, plane - n * channels, count == 2 ? 0 : 2 * slice, 2 * (row - outer * extent[1])};
  }
};

}  // namespace handgrad
