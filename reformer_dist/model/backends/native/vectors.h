// Short vectors, their exponential, and the one matrix product that everything here is made of.
//
// GCC's vector extension is used instead of intrinsics: 32 bytes are one AVX2 register, or two registers of NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace reformer {

constexpr int kTile = 16;  // queries of a tile, and keys of a panel

template <typename T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(32)));
  typedef int32_t Mask __attribute__((vector_size(32)));
  using Integer = int32_t;
  static constexpr int count = 8;
};

template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(32)));
  typedef int64_t Mask __attribute__((vector_size(32)));
  using Integer = int64_t;
  static constexpr int count = 4;
};

template <typename T>
using Vector = typename Lanes<T>::Vector;
template <typename T>
using Mask = typename Lanes<T>::Mask;
template <typename T>
using Integer = typename Lanes<T>::Integer;

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename T>
inline Mask<T> load_mask(const Integer<T>* from) {
  Mask<T> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename T>
inline void store(T* to, Vector<T> x) {
  std::memcpy(to, &x, sizeof x);
}

template <typename T>
inline Vector<T> fill(T value) {
  return Vector<T>{} + value;
}

template <typename T>
inline T sum(Vector<T> x) {
  T total = 0;
  for (int lane = 0; lane < Lanes<T>::count; ++lane) total += x[lane];
  return total;
}

template <typename T>
inline T largest(Vector<T> x) {
  T value = x[0];
  for (int lane = 1; lane < Lanes<T>::count; ++lane) value = x[lane] > value ? x[lane] : value;
  return value;
}

// `width` is a multiple of the lanes.
template <typename T>
inline T dot(const T* x, const T* y, int64_t width) {
  Vector<T> products{};
  for (int64_t d = 0; d < width; d += Lanes<T>::count) products += load<T>(x + d) * load<T>(y + d);
  return sum<T>(products);
}

// to = x weight.
template <typename T>
inline void scale_row(const T* x, T weight, int64_t size, T* to) {
  int64_t d = 0;
  for (; d + Lanes<T>::count <= size; d += Lanes<T>::count) store<T>(to + d, load<T>(x + d) * weight);
  for (; d < size; ++d) to[d] = x[d] * weight;
}

// to = to old_weight + x weight.
template <typename T>
inline void mix_rows(const T* x, T weight, T old_weight, int64_t size, T* to) {
  int64_t d = 0;
  for (; d + Lanes<T>::count <= size; d += Lanes<T>::count)
    store<T>(to + d, load<T>(to + d) * old_weight + load<T>(x + d) * weight);
  for (; d < size; ++d) to[d] = to[d] * old_weight + x[d] * weight;
}

// exp for x up to about 88, within 2 units in the last place; exactly 0 below -87.3, where floats become denormal.
inline Vector<float> exponential(Vector<float> x) {
  const auto capped = x > 88.0f ? fill(88.0f) : x;
  const auto magic = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const auto n = (capped * 1.44269504089f + magic) - magic;
  const auto r = (capped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  auto p = fill(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Mask<float> bits = (__builtin_convertvector(n, Mask<float>) + 127) << 23;
  Vector<float> scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < -87.3f ? Vector<float>{} : p * scale;
}

inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// C (+)= A B for Rows rows and two vectors of columns. A and B come in `parts` pieces along the inner dimension, each
// `depth` long; element (row, step) of piece p of A is a[p * a_part + row * a_row + step * a_step].
template <typename T, int Rows, bool Add>
inline void product_rows(const T* a, int64_t a_part, int64_t a_row, int64_t a_step, const T* const* b, int64_t b_offset,
                         int64_t b_step, int parts, int depth, T* c, int64_t c_row) {
  constexpr int L = Lanes<T>::count;
  Vector<T> sums[Rows][2];
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
    sums[row][0] = Add ? load<T>(c + row * c_row) : Vector<T>{};
    sums[row][1] = Add ? load<T>(c + row * c_row + L) : Vector<T>{};
  }
  for (int part = 0; part < parts; ++part) {
    const T* left = a + part * a_part;
    const T* right = b[part] + b_offset;
    for (int step = 0; step < depth; ++step, left += a_step, right += b_step) {
      const Vector<T> right0 = load<T>(right), right1 = load<T>(right + L);
#pragma GCC unroll 8
      for (int row = 0; row < Rows; ++row) {
        const Vector<T> value = fill<T>(left[row * a_row]);
        sums[row][0] += value * right0;
        sums[row][1] += value * right1;
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < Rows; ++row) {
    store<T>(c + row * c_row, sums[row][0]);
    store<T>(c + row * c_row + L, sums[row][1]);
  }
}

// The same for kTile rows and `columns` columns, a multiple of kTile.
template <typename T, bool Add>
inline void product(const T* a, int64_t a_part, int64_t a_row, int64_t a_step, const T* const* b, int64_t b_step,
                    int parts, int depth, T* c, int64_t c_row, int columns) {
  static_assert(kTile == 6 + 6 + 4);
  for (int column = 0; column < columns; column += 2 * Lanes<T>::count) {
    T* to = c + column;
    product_rows<T, 6, Add>(a, a_part, a_row, a_step, b, column, b_step, parts, depth, to, c_row);
    product_rows<T, 6, Add>(a + 6 * a_row, a_part, a_row, a_step, b, column, b_step, parts, depth, to + 6 * c_row, c_row);
    product_rows<T, 4, Add>(a + 12 * a_row, a_part, a_row, a_step, b, column, b_step, parts, depth, to + 12 * c_row,
                            c_row);
  }
}

}  // namespace reformer
