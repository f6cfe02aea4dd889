// Numbers from lines to groups: the transposition of a matrix, square by square, each of them in registers.
//
// A square is as wide as a vector of the processor, up to a cache line. Its rows are exchanged by halves, then by
// quarters, and so on: one instruction for a vector and step. What is left at the edges are smaller squares.
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

}  // namespace detail

// to[j, i] = from[i, j]; `from` has rows `from_step` apart, `to` has those of the result `to_step` apart.
template <class C>
void transpose(const C* from, int64_t from_step, int64_t rows, int64_t columns, C* to, int64_t to_step) {
  detail::transpose_squares<kOwnLanes<C>>(from, from_step, rows, columns, to, to_step);
}

}  // namespace handgrad
