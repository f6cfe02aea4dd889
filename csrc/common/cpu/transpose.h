// Numbers from lines to groups: the transposition of a matrix, square by square, each of them in registers.
//
// A square is as wide as a vector of the processor, up to a cache line. Its rows are exchanged by halves, then by
// quarters, and so on: one instruction for a vector and step. What is left at the edges are smaller squares.
//
// Where lines are fewer than a group has room for, a square of the group's size has zeros in place of those that are
// missing: that costs less than the smaller squares.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/lanes.h"

namespace handgrad {

namespace detail {

// Elements Distance apart change places between two rows that are Distance apart.
template <int64_t Distance, class Row, size_t... Index>
inline void exchange(Row& a, Row& b, std::index_sequence<Index...>) {
  constexpr int64_t side = sizeof...(Index);
  constexpr auto is_far = [](int64_t index) { return (index & Distance) != 0; };
  const Row first = __builtin_shufflevector(a, b, (is_far(Index) ? side + int64_t(Index) - Distance : Index)...);
  b = __builtin_shufflevector(a, b, (is_far(Index) ? side + Index : Index + Distance)...);
  a = first;
}

template <int64_t Distance, int64_t Side, class Row>
inline void exchange_all(Row (&rows)[Side]) {
#pragma GCC unroll 16
  for (int64_t i = 0; i < Side; ++i) {
    if ((i & Distance) == 0) exchange<Distance>(rows[i], rows[i + Distance], std::make_index_sequence<Side>());
  }
  if constexpr (Distance > 1) exchange_all<Distance / 2>(rows);
}

template <int64_t Side, class C>
inline void transpose_square(const C* from, int64_t from_step, C* to, int64_t to_step) {
  Packed<C, Side> rows[Side];
#pragma GCC unroll 16
  for (int64_t i = 0; i < Side; ++i) std::memcpy(&rows[i], from + i * from_step, sizeof(rows[i]));
  exchange_all<Side / 2>(rows);
#pragma GCC unroll 16
  for (int64_t i = 0; i < Side; ++i) std::memcpy(to + i * to_step, &rows[i], sizeof(rows[i]));
}

template <int64_t Side, class C>
[[gnu::noinline]] void transpose_squares(const C* from, int64_t from_step, int64_t rows, int64_t columns, C* to,
                                         int64_t to_step) {
  if constexpr (Side == 1) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) to[j * to_step + i] = from[i * from_step + j];
    }
  } else {
    const int64_t whole_rows = rows / Side * Side, whole_columns = columns / Side * Side;
    for (int64_t i = 0; i < whole_rows; i += Side) {
      for (int64_t j = 0; j < whole_columns; j += Side) {
        transpose_square<Side>(from + i * from_step + j, from_step, to + j * to_step + i, to_step);
      }
    }
    const auto rest = [&](int64_t i, int64_t j, int64_t some_rows, int64_t some_columns) {
      if (some_rows == 0 || some_columns == 0) return;
      transpose_squares<Side / 2>(from + i * from_step + j, from_step, some_rows, some_columns, to + j * to_step + i,
                                  to_step);
    };
    rest(0, whole_columns, whole_rows, columns - whole_columns);
    rest(whole_rows, 0, rows - whole_rows, columns);
  }
}

// Lines to groups, or back, that are as wide as a square; there are `lines` of them.
template <int64_t Side, class C>
inline void read_square(const C* from, int64_t step, int64_t lines, Packed<C, Side> (&rows)[Side]) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < Side; ++i) {
    rows[i] = Packed<C, Side>{};
    if (i < lines) std::memcpy(&rows[i], from + i * step, sizeof(rows[i]));
  }
}
template <int64_t Side, class C>
inline void write_square(const Packed<C, Side> (&rows)[Side], C* to, int64_t step, int64_t lines) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < Side; ++i) {
    if (i < lines) std::memcpy(to + i * step, &rows[i], sizeof(rows[i]));
  }
}

}  // namespace detail

// Up to Side lines, `step` apart, to `count` groups of Side numbers, `group` apart. Those of missing lines are 0.
template <int64_t Side, class C>
[[gnu::noinline]] void lines_to_groups(const C* from, int64_t step, int64_t lines, int64_t count, C* to,
                                       int64_t group) {
  const int64_t whole = count / Side * Side;
  Packed<C, Side> rows[Side];
  for (int64_t j = 0; j < whole; j += Side) {
    detail::read_square<Side>(from + j, step, lines, rows);
    detail::exchange_all<Side / 2>(rows);
    detail::write_square<Side>(rows, to + j * group, group, Side);
  }
  for (int64_t j = whole; j < count; ++j) {
    for (int64_t i = 0; i < Side; ++i) to[j * group + i] = i < lines ? from[i * step + j] : C(0);
  }
}
// Of `count` groups of Side numbers the first `lines`, up to Side, to lines.
template <int64_t Side, class C>
[[gnu::noinline]] void groups_to_lines(const C* from, int64_t group, int64_t count, int64_t lines, C* to,
                                       int64_t step) {
  const int64_t whole = count / Side * Side;
  Packed<C, Side> rows[Side];
  for (int64_t j = 0; j < whole; j += Side) {
    detail::read_square<Side>(from + j * group, group, Side, rows);
    detail::exchange_all<Side / 2>(rows);
    detail::write_square<Side>(rows, to + j, step, lines);
  }
  for (int64_t j = whole; j < count; ++j) {
    for (int64_t i = 0; i < lines; ++i) to[i * step + j] = from[j * group + i];
  }
}

// to[j, i] = from[i, j]; `from` has rows `from_step` apart, `to` has those of the result `to_step` apart.
template <class C>
void transpose(const C* from, int64_t from_step, int64_t rows, int64_t columns, C* to, int64_t to_step) {
  detail::transpose_squares<kOwnLanes<C>>(from, from_step, rows, columns, to, to_step);
}

}  // namespace handgrad
