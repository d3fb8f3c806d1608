// One token more, of every row of a batch: what decoding asks for at each step.
//
// A row's results do not depend on the other rows or on the number of threads: every sum is made in one order.
//
// Legend: B batch, E width, N outputs, K taps, H heads, D head dimension, R hash rounds, F columns of a rotation, W window, C
// capacity of a memory.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "decoding.h"
#include "vectors.h"

namespace reformer {
namespace {

constexpr int64_t kProductsOfThread = 1 << 15;  // multiplications that are worth a thread
constexpr int kRowsAhead = 8;                   // keys whose rows are fetched before they are read

// Pieces of work that a thread takes at least, where one has so many multiplications.
int64_t grain(int64_t products) { return std::max<int64_t>(1, kProductsOfThread / std::max<int64_t>(1, products)); }

// Products of Rows rows of x with a row of a matrix, each summed in the same order whatever Rows is. A row of the matrix at a
// time: memory is read at its full speed in one stream alone (measured 30 GB/s, and 12 with four rows by turns).
template <typename T, int Rows>
inline void dots(const T* x, int64_t x_row, const T* weight, int64_t width, T* to, int64_t to_row) {
  constexpr int L = Lanes<T>::count;
  Vector<T> even[Rows] = {}, odd[Rows] = {};
  int64_t e = 0;
  for (; e + 2 * L <= width; e += 2 * L) {
    const auto first = load<T>(weight + e), second = load<T>(weight + e + L);
#pragma GCC unroll 4
    for (int b = 0; b < Rows; ++b) {
      even[b] += load<T>(x + b * x_row + e) * first;
      odd[b] += load<T>(x + b * x_row + e + L) * second;
    }
  }
  if (e + L <= width) {
    for (int b = 0; b < Rows; ++b) even[b] += load<T>(x + b * x_row + e) * load<T>(weight + e);
    e += L;
  }
  for (int b = 0; b < Rows; ++b) {
    T total = sum<T>(even[b] + odd[b]);
    for (int64_t rest = e; rest < width; ++rest) total += x[b * x_row + rest] * weight[rest];
    to[b * to_row] += total;
  }
}

template <typename T, int Rows>
inline void product_of_rows(const T* x, int64_t x_row, const T* weight, int64_t weight_row, int64_t width, int64_t first,
                            int64_t last, T* to, int64_t to_row) {
  for (int64_t n = first; n < last; ++n) dots<T, Rows>(x, x_row, weight + n * weight_row, width, to + n, to_row);
}

}  // namespace

// x [B, E] times a matrix [N, E], whose rows may lie apart, plus a bias [N] if there is one: [B, N].
at::Tensor next_product(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  TORCH_CHECK(weight.stride(1) == 1 && weight.size(1) == x.size(1), "rows of weights must be contiguous");
  const int64_t B = x.size(0), E = x.size(1), N = weight.size(0), weight_row = weight.stride(0);
  auto out = at::empty({B, N}, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "next_product", [&] {
    const scalar_t *rows = x.const_data_ptr<scalar_t>(), *matrix = weight.const_data_ptr<scalar_t>();
    const scalar_t* shifts = bias ? bias->const_data_ptr<scalar_t>() : nullptr;
    scalar_t* to = out.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, N, grain(B * E), [&](int64_t first, int64_t last) {
      for (int64_t b = 0; b < B; ++b)
        for (int64_t n = first; n < last; ++n) to[b * N + n] = shifts ? shifts[n] : scalar_t{};
      int64_t b = 0;
      for (; b + 4 <= B; b += 4)
        product_of_rows<scalar_t, 4>(rows + b * E, E, matrix, weight_row, E, first, last, to + b * N, N);
      for (; b < B; ++b)
        product_of_rows<scalar_t, 1>(rows + b * E, E, matrix, weight_row, E, first, last, to + b * N, N);
    });
  });
  return out;
}

namespace {

template <typename T>
T sum_of(const T* x, int64_t size) {
  Vector<T> sums{};
  int64_t e = 0;
  for (; e + Lanes<T>::count <= size; e += Lanes<T>::count) sums += load<T>(x + e);
  T total = sum<T>(sums);
  for (; e < size; ++e) total += x[e];
  return total;
}

template <typename T>
T sum_of_squares(const T* x, T mean, int64_t size) {
  Vector<T> sums{};
  int64_t e = 0;
  for (; e + Lanes<T>::count <= size; e += Lanes<T>::count) {
    const auto difference = load<T>(x + e) - mean;
    sums += difference * difference;
  }
  T total = sum<T>(sums);
  for (; e < size; ++e) total += (x[e] - mean) * (x[e] - mean);
  return total;
}

// The norm of x [B, E]: LayerNorm with a bias, RMSNorm without. Then the short convolution with `recent` [B, K - 1, E], the
// normalised tokens before, the oldest first; the new one is put there and the oldest dropped. No convolution: no `taps`
// [E, 1, K].
at::Tensor normalised(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, double eps,
                      const OptionalTensor& taps, const OptionalTensor& recent) {
  TORCH_CHECK(x.is_contiguous(), "x must be contiguous");
  auto out = at::empty_like(x);
  const int64_t B = x.size(0), E = x.size(1), K = taps ? taps->size(2) : 0;
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "normalised", [&] {
    using T = scalar_t;
    const T* scales = weight.const_data_ptr<T>();
    const T* shifts = bias ? bias->const_data_ptr<T>() : nullptr;
    std::vector<T> normal(E);
    for (int64_t b = 0; b < B; ++b) {
      const T* from = x.const_data_ptr<T>() + b * E;
      T* to = out.mutable_data_ptr<T>() + b * E;
      const T mean = shifts ? sum_of(from, E) / static_cast<T>(E) : T{};
      const T scale = 1 / std::sqrt(sum_of_squares(from, mean, E) / static_cast<T>(E) + static_cast<T>(eps));
      for (int64_t e = 0; e < E; ++e) normal[e] = (from[e] - mean) * scale * scales[e] + (shifts ? shifts[e] : T{});
      std::copy(normal.begin(), normal.end(), to);
      if (K == 0) continue;
      const T* tap = taps->const_data_ptr<T>();
      T* before = recent->data_ptr<T>() + b * (K - 1) * E;
      for (int64_t k = 0; k < K; ++k) {
        const T* other = k + 1 < K ? before + k * E : normal.data();
        for (int64_t e = 0; e < E; ++e) to[e] += other[e] * tap[e * K + k];
      }
      if (K == 1) continue;
      std::copy(before + E, before + (K - 1) * E, before);
      std::copy(normal.begin(), normal.end(), before + (K - 2) * E);
    }
  });
  return out;
}

}  // namespace

// The normalised x [B, E] times matrices [N, E], plus their biases [N] if there are any: [B, N] of each.
std::vector<at::Tensor> next_projections(const at::Tensor& x, const at::Tensor& norm, const OptionalTensor& norm_bias,
                                         double eps, const OptionalTensor& taps, const OptionalTensor& recent,
                                         at::TensorList weights, at::TensorList biases) {
  const auto normal = normalised(x, norm, norm_bias, eps, taps, recent);
  std::vector<at::Tensor> projections;
  for (size_t i = 0; i < weights.size(); ++i)
    projections.push_back(next_product(normal, weights[i], i < biases.size() ? OptionalTensor(biases[i]) : std::nullopt));
  return projections;
}

namespace {

// Pairs of features turned by their angles' cosine and sine, [D / 2] complex; a last one without a partner stays.
template <typename T>
void turn(const T* x, const T* waves, int64_t D, T* to) {
  std::copy_n(x, D, to);
  if (waves == nullptr) return;
  for (int64_t f = 0; f + 1 < D; f += 2) {
    to[f] = x[f] * waves[f] - x[f + 1] * waves[f + 1];
    to[f + 1] = x[f] * waves[f + 1] + x[f + 1] * waves[f];
  }
}

// Asks for memory that is read soon.
inline void fetch_bytes(const void* from, int64_t size) {
  constexpr int64_t kLine = 64;
  const auto first = reinterpret_cast<uintptr_t>(from) / kLine * kLine;
  for (uintptr_t line = first; line < reinterpret_cast<uintptr_t>(from) + size; line += kLine)
    __builtin_prefetch(reinterpret_cast<const void*>(line));
}

// A memory's rows of one head, each a key and a value [2 D], and what one query gets of some of them.
template <typename T>
class Reader {
 public:
  explicit Reader(int64_t D) : D_(D), query_(D), out_(D) {}

  T* query() { return query_.data(); }

  // softmax(query . keys) values over the rows at `places`; false, and nothing, where there are none.
  bool attend(const T* rows, const std::vector<int64_t>& places, T* to) {
    const int64_t count = places.size(), row = 2 * D_;
    if (count == 0) return false;
    constexpr int L = Lanes<T>::count;
    scores_.assign((count + L - 1) / L * L, -std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < kRowsAhead; ++i) fetch(rows, places, i);
    for (int64_t i = 0; i < count; ++i) {
      fetch(rows, places, i + kRowsAhead);
      scores_[i] = T{};
      dots<T, 1>(query_.data(), 0, rows + places[i] * row, D_, &scores_[i], 0);
    }
    const T highest = *std::max_element(scores_.begin(), scores_.begin() + count);
    for (int64_t i = 0; i < count; i += L) store<T>(&scores_[i], exponential(load<T>(&scores_[i]) - highest));
    const T total = sum_of(scores_.data(), count);
    std::fill(out_.begin(), out_.end(), T{});
    for (int64_t i = 0; i < count; ++i) mix_rows(rows + places[i] * row + D_, scores_[i], T{1}, D_, out_.data());
    for (int64_t d = 0; d < D_; ++d) to[d] = out_[d] / total;
    return true;
  }

 private:
  void fetch(const T* rows, const std::vector<int64_t>& places, int64_t i) const {
    if (i < static_cast<int64_t>(places.size())) fetch_bytes(rows + places[i] * 2 * D_, 2 * D_ * sizeof(T));
  }

  int64_t D_;
  std::vector<T> query_, scores_, out_;
};

void check_memory(const at::Tensor& rows, const at::Tensor& v, const at::Tensor& positions) {
  TORCH_CHECK(rows.is_contiguous() && v.is_contiguous() && rows.size(3) == 2 * v.size(2), "rows are [B, H, C, 2 D]");
  TORCH_CHECK(positions.scalar_type() == at::kLong && positions.size(0) == v.size(0), "positions are [B] int64");
}

}  // namespace

// Attention of one token more to those of positions oldest..its own, which lie at their position modulo C.
//   q, k, v      [B, H, D]
//   rows         [B, H, C, 2 D] keys as they are attended and values; the new ones are put there
//   positions    [B] int64 of the new tokens; `oldest` likewise
//   waves        [B, D / 2] complex, by which q and k are turned; none: they are not
at::Tensor next_of_newest(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, at::Tensor rows,
                          const at::Tensor& positions, const at::Tensor& oldest, const OptionalTensor& waves) {
  check_memory(rows, v, positions);
  const int64_t B = v.size(0), H = v.size(1), D = v.size(2), C = rows.size(2);
  const int64_t *last = positions.const_data_ptr<int64_t>(), *first = oldest.const_data_ptr<int64_t>();
  int64_t longest = 0;
  for (int64_t b = 0; b < B; ++b) longest = std::max(longest, last[b] + 1 - first[b]);
  auto out = at::empty_like(v);
  AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "next_of_newest", [&] {
    using T = scalar_t;
    const T scale = 1 / std::sqrt(static_cast<T>(D));
    at::parallel_for(0, B * H, grain(2 * D * longest), [&](int64_t begin, int64_t end) {
      Reader<T> reader(D);
      std::vector<int64_t> places;
      for (int64_t slice = begin; slice < end; ++slice) {
        const int64_t b = slice / H, position = last[b];
        const T* wave = waves ? waves->const_data_ptr<T>() + b * (D / 2 * 2) : nullptr;
        T* memory = rows.data_ptr<T>() + slice * C * 2 * D;
        T* own = memory + position % C * 2 * D;
        turn(k.const_data_ptr<T>() + slice * D, wave, D, own);
        std::copy_n(v.const_data_ptr<T>() + slice * D, D, own + D);
        turn(q.const_data_ptr<T>() + slice * D, wave, D, reader.query());
        for (int64_t d = 0; d < D; ++d) reader.query()[d] *= scale;
        places.clear();
        for (int64_t at = first[b]; at <= position; ++at) places.push_back(at % C);
        reader.attend(memory, places, out.mutable_data_ptr<T>() + slice * D);
      }
    });
  });
  return out;
}

namespace {

// The bucket of a vector by rotated columns [F]: argmax of [x, -x] for every factor, the first counting least.
template <typename T>
int64_t bucket_of(const T* rotated, at::IntArrayRef factors) {
  int64_t bucket = 0, scale = 1;
  for (const auto factor : factors) {
    const int64_t half = factor / 2;
    if (half > 0) {
      const T *high = std::max_element(rotated, rotated + half), *low = std::min_element(rotated, rotated + half);
      bucket += scale * (*high >= -*low ? high - rotated : low - rotated + half);
    }
    scale *= factor;
    rotated += half;
  }
  return bucket;
}

// to [columns] = x [D] times rotations [D, columns].
template <typename T>
void rotate(const T* x, const T* rotations, int64_t D, int64_t columns, T* to) {
  std::fill_n(to, columns, T{});
  for (int64_t d = 0; d < D; ++d) mix_rows(rotations + d * columns, x[d], T{1}, columns, to);
}

}  // namespace

// Buckets [B, H, R] int32 of queries-keys [B, H, D] by rotations [H or 1, D, R, F].
at::Tensor next_buckets(const at::Tensor& qk, const at::Tensor& rotations, at::IntArrayRef factors) {
  TORCH_CHECK(qk.is_contiguous() && rotations.is_contiguous(), "vectors and rotations must be contiguous");
  const int64_t B = qk.size(0), H = qk.size(1), D = qk.size(2), R = rotations.size(2), F = rotations.size(3);
  auto buckets = at::zeros({B, H, R}, qk.options().dtype(at::kInt));
  AT_DISPATCH_FLOATING_TYPES(qk.scalar_type(), "next_buckets", [&] {
    using T = scalar_t;
    at::parallel_for(0, B * H, grain(D * R * F), [&](int64_t begin, int64_t end) {
      std::vector<T> rotated(R * F);
      for (int64_t slice = begin; slice < end; ++slice) {
        const int64_t own = rotations.size(0) == 1 ? 0 : slice % H;
        rotate(qk.const_data_ptr<T>() + slice * D, rotations.const_data_ptr<T>() + own * D * R * F, D, R * F, rotated.data());
        for (int64_t round = 0; round < R; ++round)
          buckets.mutable_data_ptr<int32_t>()[slice * R + round] = bucket_of(rotated.data() + round * F, factors);
      }
    });
  });
  return buckets;
}

namespace {

}  // namespace

// Attention of one token more to the last W tokens of its bucket in every round.
//   qk, v        [B, H, D] queries-keys as they are attended but for `waves`, and values
//   buckets      [B, H, R] int32 of the new tokens
//   rows         [B, H, C, 2 D] keys of unit length and values by position; with `brings_next` the value is the next token's
//   newest       [B, H, R, buckets, W] int32 positions; number i of a bucket is at i modulo W
//   counts       [B, H, R, buckets] int32 tokens that a bucket had
//   positions    [B] int64 of the new tokens, which are put into rows, newest and counts
//   waves        [B, D / 2] complex, by which queries and keys are turned; none: they are not
at::Tensor next_of_buckets(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& buckets, at::Tensor rows,
                           at::Tensor newest, at::Tensor counts, const at::Tensor& positions, bool brings_next,
                           const OptionalTensor& waves) {
  check_memory(rows, v, positions);
  TORCH_CHECK(buckets.is_contiguous() && newest.is_contiguous() && counts.is_contiguous(), "must be contiguous");
  const int64_t B = v.size(0), H = v.size(1), D = v.size(2), C = rows.size(2);
  const int64_t R = newest.size(2), N = newest.size(3), W = newest.size(4);
  auto out = at::empty_like(v);
  AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "next_of_buckets", [&] {
    using T = scalar_t;
    at::parallel_for(0, B * H, grain(2 * D * R * W), [&](int64_t begin, int64_t end) {
      Reader<T> reader(D);
      std::vector<int64_t> places;
      const auto place_of = [&](int64_t slice, int64_t round) {
        return (slice * R + round) * N + buckets.const_data_ptr<int32_t>()[slice * R + round];
      };
      for (int64_t slice = begin; slice < end; ++slice)
        for (int64_t round = 0; round < R; ++round) {
          fetch_bytes(counts.const_data_ptr<int32_t>() + place_of(slice, round), sizeof(int32_t));
          fetch_bytes(newest.const_data_ptr<int32_t>() + place_of(slice, round) * W, W * sizeof(int32_t));
        }
      for (int64_t slice = begin; slice < end; ++slice) {
        const int64_t b = slice / H, position = positions.const_data_ptr<int64_t>()[b];
        const T *x = qk.const_data_ptr<T>() + slice * D, *value = v.const_data_ptr<T>() + slice * D;
        T *memory = rows.data_ptr<T>() + slice * C * 2 * D, *result = out.mutable_data_ptr<T>() + slice * D;
        const int64_t bringing = position - brings_next;  // whose key brings this token's value
        if (bringing >= 0) std::copy_n(value, D, memory + (bringing * 2 + 1) * D);
        places.clear();
        for (int64_t round = 0; round < R; ++round) {
          const int64_t place = place_of(slice, round);
          int32_t* positions_W = newest.data_ptr<int32_t>() + place * W;
          int32_t& count = counts.data_ptr<int32_t>()[place];
          places.insert(places.end(), positions_W, positions_W + std::min<int64_t>(count, W));
          positions_W[count++ % W] = static_cast<int32_t>(position);
        }
        T *query = reader.query(), *key = memory + position * 2 * D;
        turn(x, waves ? waves->const_data_ptr<T>() + b * (D / 2 * 2) : nullptr, D, query);
        if (!reader.attend(memory, places, result)) {
          if (brings_next) std::fill_n(result, D, T{});
          else std::copy_n(value, D, result);
        }
        const T length = 1 / std::sqrt(sum_of_squares(query, T{}, D) + static_cast<T>(D) * static_cast<T>(1e-6));
        for (int64_t d = 0; d < D; ++d) key[d] = query[d] * length;
      }
    });
  });
  return out;
}

namespace {

// softmax of logits [B, V].
at::Tensor next_probabilities(const at::Tensor& logits) {
  TORCH_CHECK(logits.is_contiguous(), "logits must be contiguous");
  const int64_t B = logits.size(0), V = logits.size(1);
  auto out = at::empty_like(logits);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "next_probabilities", [&] {
    using T = scalar_t;
    constexpr int L = Lanes<T>::count;
    std::vector<T> scores((V + L - 1) / L * L);
    for (int64_t b = 0; b < B; ++b) {
      const T* from = logits.const_data_ptr<T>() + b * V;
      std::copy_n(from, V, scores.begin());
      const T highest = *std::max_element(from, from + V);
      for (int64_t v = 0; v < V; v += L) store<T>(&scores[v], exponential(load<T>(&scores[v]) - highest));
      const T total = sum_of(scores.data(), V);
      for (int64_t v = 0; v < V; ++v) out.mutable_data_ptr<T>()[b * V + v] = scores[v] / total;
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.def("next_product(Tensor x, Tensor weight, Tensor? bias) -> Tensor", &next_product);
  library.def(
      "next_projections(Tensor x, Tensor norm, Tensor? norm_bias, float eps, Tensor? taps, Tensor(a!)? recent, Tensor[] "
      "weights, Tensor[] biases) -> Tensor[]",
      &next_projections);
  library.def(
      "next_of_newest(Tensor q, Tensor k, Tensor v, Tensor(a!) rows, Tensor positions, Tensor oldest, Tensor? waves) -> "
      "Tensor",
      &next_of_newest);
  library.def("next_probabilities(Tensor logits) -> Tensor", &next_probabilities);
  library.def("next_buckets(Tensor qk, Tensor rotations, int[] factors) -> Tensor", &next_buckets);
  library.def(
      "next_of_buckets(Tensor qk, Tensor v, Tensor buckets, Tensor(a!) rows, Tensor(b!) newest, Tensor(c!) counts, Tensor "
      "positions, bool brings_next, Tensor? waves) -> Tensor",
      &next_of_buckets);
}

}  // namespace
}  // namespace reformer
