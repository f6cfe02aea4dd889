// A matrix of all products of two tables' rows, tile by tile: it is never stored.
//
// The longer side is cut into lanes, which are worked on in parallel; a lane takes its tiles one after the other, so
// that what it adds up has one order. Sizes and number of lanes depend on the tables alone, not on the threads: results
// are the same, to the bit, for any number of them. What tiles of several lanes contribute to one row of the shorter
// side stands in memory of each lane, and is added in the lanes' order.
//
//   const ProductTiles tiles(rows, columns, 1);
//   for_each_lane(tiles, [&](int64_t lane, int64_t first, int64_t last) {
//     for (int64_t outer = first; outer < last; ++outer) {
//       for (int64_t inner = 0; inner < tiles.inner_count(); ++inner) { work(tiles.tile(outer, inner)); }
//     }
//   });
#pragma once

#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/scratch.h"

namespace handgrad {

struct ProductTile {
  int64_t first_row, rows, first_column, columns;
};

// Rows, or columns, in tiles of one size.
struct ProductCut {
  int64_t count, size, tiles;

  // Tiles of about `most`, shorter where that gives a few of them; whole multiples of `step`.
  ProductCut(int64_t count, int64_t most, int64_t step) : count(count) {
    const int64_t share = std::clamp<int64_t>((count + kFewest - 1) / kFewest, std::min(count, kShortest), most);
    size = std::max<int64_t>(1, (share + step - 1) / step) * step;
    tiles = (count + size - 1) / size;
  }
  int64_t length(int64_t tile) const { return std::min(size, count - tile * size); }

 private:
  static constexpr int64_t kFewest = 8, kShortest = 64;
};

struct ProductTiles {
  ProductCut rows, columns;
  bool of_columns;  // whether lanes are made of columns
  int64_t lanes;

  // Columns come in groups of `step` that stay together.
  ProductTiles(int64_t row_count, int64_t column_count, int64_t step)
      : rows(row_count, kTile, 1),
        columns(column_count, std::max(kTile, step), step),
        of_columns(column_count >= row_count) {
    const int64_t longer = std::max(row_count, column_count), shorter = std::min(row_count, column_count);
    // Memory of all lanes together: an eighth of the longer table, or four times the shorter.
    lanes = std::min(outer().tiles, std::clamp<int64_t>(longer / (8 * std::max<int64_t>(1, shorter)), 4, 32));
  }
  const ProductCut& outer() const { return of_columns ? columns : rows; }
  const ProductCut& inner() const { return of_columns ? rows : columns; }
  int64_t inner_count() const { return inner().tiles; }
  ProductTile tile(int64_t outer_index, int64_t inner_index) const {
    const int64_t r = of_columns ? inner_index : outer_index, c = of_columns ? outer_index : inner_index;
    return {r * rows.size, rows.length(r), c * columns.size, columns.length(c)};
  }
  int64_t numbers_of_tile() const { return rows.size * columns.size; }

 private:
  static constexpr int64_t kTile = 512;
};

template <class Work>
void for_each_lane(const ProductTiles& tiles, const Work& work) {
  // Two at least: of a single piece torch would leave the threads of a product as they are.
  torch::stable::parallel_for(0, std::max<int64_t>(2, tiles.lanes), 1, [&](int64_t begin, int64_t end) {
    const OneThreadMatmul one_thread;
    for (int64_t lane = begin; lane < std::min(end, tiles.lanes); ++lane) {
      const int64_t count = tiles.outer().tiles;
      work(lane, count * lane / tiles.lanes, count * (lane + 1) / tiles.lanes);
    }
  });
}

// The dense matrix of some rows of a table.
template <class C>
Tensor cpu_rows(const C* data, int64_t rows, int64_t width) {
  return cpu_matrix(data, rows, width, width, 1);
}
template <class C>
Tensor cpu_columns(const C* data, int64_t rows, int64_t width) {
  return cpu_matrix(data, width, rows, 1, width);
}

}  // namespace handgrad
