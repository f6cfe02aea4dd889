// What a pixel of the first map sees of the second: a window of whole pixels around a point between pixels, and four of
// them blended for each output. All outputs of a pixel are equally far from whole pixels, so that one window of
// products serves them: (2 radius + 2)^2 instead of four times (2 radius + 1)^2.
//
// Outputs and windows have columns outermost, as RAFT's: output (a, b) is a - radius columns and b - radius rows away,
// and blends window pixels (a, b), (a, b + 1), (a + 1, b), (a + 1, b + 1).
#pragma once

#include <cstdint>
#include <limits>

#include "abi/macros.h"

namespace handgrad::correlation_lookup {

template <class C>
struct Window {
  int64_t column, row;  // of its first pixel
  C right, down;        // how far the point is from a whole pixel
  bool is_nan;
  // The window pixels that are pixels of the map, [first, last) of each axis; none of a window that is outside.
  int32_t first_column, last_column, first_row, last_row;

  HANDGRAD_MATH Window(C x, C y, int64_t radius, int64_t height, int64_t width) {
    const int64_t side = 2 * radius + 2;
    column = row = 0;
    right = down = 0;
    first_column = last_column = first_row = last_row = 0;
    is_nan = x != x || y != y;
    // So no float that an integer cannot hold is ever made one.
    const C reach = static_cast<C>(radius + 1);
    const bool sees =
        x >= -reach && x < static_cast<C>(width) + reach && y >= -reach && y < static_cast<C>(height) + reach;
    if (is_nan || !sees) return;
    split(x, radius, column, right);
    split(y, radius, row, down);
    clip(column, side, width, first_column, last_column);
    clip(row, side, height, first_row, last_row);
    if (first_column == last_column || first_row == last_row) {
      first_column = last_column = first_row = last_row = 0;
    }
  }

  HANDGRAD_MATH bool is_outside() const { return first_column == last_column; }
  HANDGRAD_MATH bool has(int64_t j, int64_t i) const {
    return j >= first_column && j < last_column && i >= first_row && i < last_row;
  }

  // ---- an output of four products, d[2 columns + rows], and its derivatives with respect to the point ---------------

  HANDGRAD_MATH C value(const C (&d)[4]) const {
    return (1 - right) * ((1 - down) * d[0] + down * d[1]) + right * ((1 - down) * d[2] + down * d[3]);
  }
  HANDGRAD_MATH C along_x(const C (&d)[4]) const { return (1 - down) * (d[2] - d[0]) + down * (d[3] - d[1]); }
  HANDGRAD_MATH C along_y(const C (&d)[4]) const { return (1 - right) * (d[1] - d[0]) + right * (d[3] - d[2]); }
  HANDGRAD_MATH C along_both(const C (&d)[4]) const { return d[0] - d[1] - d[2] + d[3]; }

  // How an output depends on product q, and how that changes when the point moves.
  HANDGRAD_MATH C weight(int q) const { return (q / 2 ? right : 1 - right) * (q % 2 ? down : 1 - down); }
  HANDGRAD_MATH C weight_change(int q, C vx, C vy) const {
    const C by_x = (q / 2 ? vx : -vx) * (q % 2 ? down : 1 - down);
    return by_x + (q % 2 ? vy : -vy) * (q / 2 ? right : 1 - right);
  }

 private:
  HANDGRAD_MATH static void split(C at, int64_t radius, int64_t& first, C& beyond) {
    // Not negative, so that cutting the fraction is rounding down.
    const C shift = static_cast<C>(radius + 2);
    int64_t whole = static_cast<int64_t>(at + shift) - (radius + 2);
    // Where the sum was rounded up to a whole number.
    if (static_cast<C>(whole) > at) --whole;
    beyond = at - static_cast<C>(whole);
    first = whole - radius;
  }
  HANDGRAD_MATH static void clip(int64_t begin, int64_t side, int64_t size, int32_t& first, int32_t& last) {
    first = static_cast<int32_t>(begin < 0 ? (-begin < side ? -begin : side) : 0);
    const int64_t left = size - begin;
    last = static_cast<int32_t>(left < side ? (left > 0 ? left : 0) : side);
    if (last < first) last = first;
  }
};

}  // namespace handgrad::correlation_lookup
