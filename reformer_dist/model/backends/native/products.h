// The one matrix product that everything here is made of.
#pragma once

#include "vectors.h"

namespace reformer {

// C (+)= A B for Rows rows and Vectors vectors of columns, which stay in registers. A and B come in `parts` pieces along the
// inner dimension, each `depth` long. Element (row, step) of piece p of A is a[p * a_part + row * a_row + step * a_step];
// right(p, v) points to vector v of the first step of piece p of B, b_step from one step to the next.
template <typename T, int Rows, int Vectors, bool Add, typename Right>
inline void product_block(const T* a, int64_t a_part, int64_t a_row, int64_t a_step, const Right& right, int64_t b_step,
                          int parts, int depth, T* c, int64_t c_row) {
  constexpr int L = Lanes<T>::count;
  Vector<T> sums[Rows][Vectors];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) sums[row][v] = Add ? load<T>(c + row * c_row + v * L) : Vector<T>{};
  for (int part = 0; part < parts; ++part) {
    const T* left = a + part * a_part;
    const T* first = right(part, 0);
    const T* second = Vectors > 1 ? right(part, 1) : nullptr;
    for (int step = 0; step < depth; ++step, left += a_step, first += b_step) {
      Vector<T> columns[Vectors];
      columns[0] = load<T>(first);
      if constexpr (Vectors > 1) columns[1] = load<T>(second), second += b_step;
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) {
        const Vector<T> value = fill<T>(left[row * a_row]);
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) sums[row][v] += value * columns[v];
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) store<T>(c + row * c_row + v * L, sums[row][v]);
}

// The same for kTile rows and two vectors of columns, or one, in blocks that fit the registers.
template <typename T, int Vectors, bool Add, typename Right>
inline void product_tile(const T* a, int64_t a_part, int64_t a_row, int64_t a_step, const Right& right, int64_t b_step,
                         int parts, int depth, T* c, int64_t c_row) {
#ifdef REFORMER_AVX512
  constexpr int kRows = Vectors == 1 ? 16 : 8;  // of 32 registers
#else
  constexpr int kRows = 6;  // of 16 registers
#endif
  constexpr int kRest = kTile % kRows;
  int row = 0;
  for (; row + kRows <= kTile; row += kRows)
    product_block<T, kRows, Vectors, Add>(a + row * a_row, a_part, a_row, a_step, right, b_step, parts, depth, c + row * c_row,
                                          c_row);
  if constexpr (kRest > 0)
    product_block<T, kRest, Vectors, Add>(a + row * a_row, a_part, a_row, a_step, right, b_step, parts, depth, c + row * c_row,
                                          c_row);
}

// C (+)= A B for kTile rows and `columns` columns, a multiple of kTile. Piece p of B begins at b[p].
template <typename T, bool Add>
inline void product(const T* a, int64_t a_part, int64_t a_row, int64_t a_step, const T* const* b, int64_t b_step, int parts,
                    int depth, T* c, int64_t c_row, int columns) {
  constexpr int L = Lanes<T>::count;
  int column = 0;
  const auto right = [&](int part, int v) { return b[part] + column + v * L; };
  for (; column + 2 * L <= columns; column += 2 * L)
    product_tile<T, 2, Add>(a, a_part, a_row, a_step, right, b_step, parts, depth, c + column, c_row);
  if (column < columns) product_tile<T, 1, Add>(a, a_part, a_row, a_step, right, b_step, parts, depth, c + column, c_row);
}

// C = A B side by side for kTile rows of A and each of `count` matrices B, panels of [depth, kTile].
template <typename T>
inline void products_by_panel(const T* a, int64_t a_row, int64_t a_step, const T* const* panels, int count, int depth, T* c,
                              int64_t c_row) {
  constexpr int L = Lanes<T>::count;
  static_assert(kTile % L == 0);
  constexpr int kOfPanel = kTile / L;  // vectors
  int v = 0;
  const auto right = [&](int, int other) { return panels[(v + other) / kOfPanel] + (v + other) % kOfPanel * L; };
  for (; v + 2 <= count * kOfPanel; v += 2)
    product_tile<T, 2, false>(a, 0, a_row, a_step, right, kTile, 1, depth, c + v * L, c_row);
  if (v < count * kOfPanel) product_tile<T, 1, false>(a, 0, a_row, a_step, right, kTile, 1, depth, c + v * L, c_row);
}

}  // namespace reformer
