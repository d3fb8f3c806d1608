// Short vectors, choices among their lanes, and their exponential and logarithm.
//
// GCC's vector extension is used instead of intrinsics wherever it makes good code: a vector is one register of AVX-512 or
// AVX2, or two of NEON. Choices are the exception: AVX-512 keeps one bit a lane, in registers of their own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define REFORMER_AVX512 1
#endif

namespace reformer {

constexpr int kTile = 16;  // queries of a tile, and keys of a panel
#ifdef REFORMER_AVX512
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

template <typename T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Mask __attribute__((vector_size(kVectorBytes)));
  using Integer = int32_t;
  static constexpr int count = kVectorBytes / sizeof(float);
};

template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Mask __attribute__((vector_size(kVectorBytes)));
  using Integer = int64_t;
  static constexpr int count = kVectorBytes / sizeof(double);
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

// Lanes of which something holds: `equal`, `at_least` and `different` say which, & joins, `choose` takes x there, else y.
#ifdef REFORMER_AVX512
inline __mmask16 equal(Mask<float> x, Mask<float> y) { return _mm512_cmpeq_epi32_mask((__m512i)x, (__m512i)y); }
inline __mmask16 different(Mask<float> x, Mask<float> y) { return _mm512_cmpneq_epi32_mask((__m512i)x, (__m512i)y); }
inline __mmask16 at_least(Mask<float> x, Mask<float> y) { return _mm512_cmpge_epi32_mask((__m512i)x, (__m512i)y); }
inline __mmask8 equal(Mask<double> x, Mask<double> y) { return _mm512_cmpeq_epi64_mask((__m512i)x, (__m512i)y); }
inline __mmask8 different(Mask<double> x, Mask<double> y) { return _mm512_cmpneq_epi64_mask((__m512i)x, (__m512i)y); }
inline __mmask8 at_least(Mask<double> x, Mask<double> y) { return _mm512_cmpge_epi64_mask((__m512i)x, (__m512i)y); }

inline Vector<float> choose(__mmask16 chosen, Vector<float> x, Vector<float> y) {
  return (Vector<float>)_mm512_mask_blend_ps(chosen, (__m512)y, (__m512)x);
}
inline Vector<double> choose(__mmask8 chosen, Vector<double> x, Vector<double> y) {
  return (Vector<double>)_mm512_mask_blend_pd(chosen, (__m512d)y, (__m512d)x);
}

inline Vector<float> larger(Vector<float> x, Vector<float> y) { return (Vector<float>)_mm512_max_ps((__m512)x, (__m512)y); }
inline Vector<float> lesser(Vector<float> x, Vector<float> y) { return (Vector<float>)_mm512_min_ps((__m512)x, (__m512)y); }
inline Vector<double> larger(Vector<double> x, Vector<double> y) {
  return (Vector<double>)_mm512_max_pd((__m512d)x, (__m512d)y);
}

// x, or 0 where it isn't above y.
inline Vector<float> where_above(Vector<float> x, float y, Vector<float> value) {
  return (Vector<float>)_mm512_maskz_mov_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(y), _CMP_NLT_UQ), (__m512)value);
}
#else
template <typename M>
inline M equal(M x, M y) { return x == y; }
template <typename M>
inline M different(M x, M y) { return x != y; }
template <typename M>
inline M at_least(M x, M y) { return x >= y; }
template <typename M, typename V>
inline V choose(M chosen, V x, V y) { return chosen ? x : y; }
template <typename V>
inline V larger(V x, V y) { return x > y ? x : y; }
template <typename V>
inline V lesser(V x, V y) { return x < y ? x : y; }
inline Vector<float> where_above(Vector<float> x, float y, Vector<float> value) { return x < y ? Vector<float>{} : value; }
#endif

template <typename T, int L>
struct Short {
  typedef T Vector __attribute__((vector_size(L * sizeof(T))));
};

// All lanes brought together by halves, in this order whatever the processor's vectors.
template <typename T, int L = Lanes<T>::count, typename Both>
inline T reduced(typename Short<T, L>::Vector x, Both&& both) {
  if constexpr (L == 2) {
    return both(x[0], x[1]);
  } else {
    typename Short<T, L / 2>::Vector halves[2];
    std::memcpy(halves, &x, sizeof x);
    return reduced<T, L / 2>(both(halves[0], halves[1]), both);
  }
}

template <typename T>
inline T sum(Vector<T> x) {
  return reduced<T>(x, [](auto a, auto b) { return a + b; });
}

template <typename T>
inline T largest(Vector<T> x) {
  return reduced<T>(x, [](auto a, auto b) { return a > b ? a : b; });
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

// to += x.
template <typename T>
inline void add_row(const T* x, int64_t size, T* to) {
  int64_t d = 0;
  for (; d + Lanes<T>::count <= size; d += Lanes<T>::count) store<T>(to + d, load<T>(to + d) + load<T>(x + d));
  for (; d < size; ++d) to[d] += x[d];
}

// to += x + y + z weight.
template <typename T>
inline void add_rows(const T* x, const T* y, const T* z, T weight, int64_t size, T* to) {
  int64_t d = 0;
  for (; d + Lanes<T>::count <= size; d += Lanes<T>::count)
    store<T>(to + d, load<T>(to + d) + ((load<T>(x + d) + load<T>(y + d)) + load<T>(z + d) * weight));
  for (; d < size; ++d) to[d] += (x[d] + y[d]) + z[d] * weight;
}

// exp for x up to about 88, within 2 units in the last place; exactly 0 below -87.3, where floats become denormal.
inline Vector<float> exponential(Vector<float> x) {
  const auto capped = lesser(fill(88.0f), x);
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
  return where_above(x, -87.3f, p * scale);
}

inline Vector<double> exponential(Vector<double> x) {
  for (int lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

// log of normal numbers, within 2 units in the last place: polynomial of the mantissa around 1 as in Cephes' logf.
inline Vector<float> logarithm(Vector<float> x) {
  Mask<float> bits;
  std::memcpy(&bits, &x, sizeof x);
  const Mask<float> exponent = (bits - 0x3F3504F3) >> 23;  // so that the mantissa is in sqrt(1/2) .. sqrt(2)
  bits -= exponent << 23;
  Vector<float> mantissa;
  std::memcpy(&mantissa, &bits, sizeof x);
  const auto e = __builtin_convertvector(exponent, Vector<float>), r = mantissa - 1.0f, square = r * r;
  auto p = fill(7.0376836292e-2f);
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const auto small = p * r * square - e * 2.12194440e-4f - square * 0.5f;
  return (r + small) + e * 0.693359375f;
}

inline Vector<double> logarithm(Vector<double> x) {
  for (int lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = std::log(x[lane]);
  return x;
}

}  // namespace reformer
