// LSH buckets by rotations, and the order of tokens by (document, bucket, position).
//
// Legend: B batch, T tokens, H heads, D head dimension, R hash rounds, F half the sum of the bucket factors.

#include <ATen/Parallel.h>
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "products.h"

namespace reformer {
namespace {

constexpr int64_t kHashedTogether = 2048;  // tokens of a task
constexpr int kPanels = 2;                 // of tokens that meet a rotation together
constexpr int kTokens = kPanels * kTile;

// Buckets of kTokens tokens and one round from their rotated vectors, [F, kTokens]: argmax of [x, -x] for every factor.
template <typename T>
void best_columns(const T* rotated, at::IntArrayRef factors, Integer<T>* buckets) {
  constexpr int L = Lanes<T>::count;
  for (int lane = 0; lane < kTokens; lane += L) {
    Mask<T> bucket{};
    Integer<T> scale = 1, column = 0;
    for (const auto factor : factors) {
      const auto half = static_cast<Integer<T>>(factor / 2);
      auto high = load<T>(rotated + column * kTokens + lane), low = high;
      Mask<T> high_at{}, low_at{};
      for (Integer<T> i = 1; i < half; ++i) {
        const auto x = load<T>(rotated + (column + i) * kTokens + lane);
        high_at = x > high ? Mask<T>{} + i : high_at;
        high = x > high ? x : high;
        low_at = x < low ? Mask<T>{} + i : low_at;
        low = x < low ? x : low;
      }
      if (half > 0) bucket += scale * (high >= -low ? high_at : low_at + half);
      scale *= static_cast<Integer<T>>(factor);
      column += half;
    }
    std::memcpy(buckets + lane, &bucket, sizeof bucket);
  }
}

// Buckets of tokens first..last-1 of one head, [R, T].
template <typename Scalar, typename Bucket>
void hash_tokens(const Scalar* qk, int64_t stride, const at::Tensor& rotations_DRF, at::IntArrayRef factors, int64_t first,
                 int64_t last, int64_t T, Bucket* buckets) {
  // C [columns, tokens] = rotations^T [columns, D] x qk^T [D, tokens], a panel of kTile columns at a time.
  const int64_t D = rotations_DRF.size(0), R = rotations_DRF.size(1), F = rotations_DRF.size(2);
  const int64_t columns = (R * F + kTile - 1) / kTile * kTile;
  std::vector<Scalar> left(D * columns), right(D * kTokens), rotated(columns * kTokens);
  for (int64_t d = 0; d < D; ++d)
    for (int64_t column = 0; column < R * F; ++column)
      left[(column / kTile * D + d) * kTile + column % kTile] = rotations_DRF.const_data_ptr<Scalar>()[d * R * F + column];
  const Scalar* panels[kPanels];
  for (int panel = 0; panel < kPanels; ++panel) panels[panel] = right.data() + panel * D * kTile;
  Integer<Scalar> found[kTokens];
  for (int64_t start = first; start < last; start += kTokens) {
    const int64_t count = std::min<int64_t>(kTokens, last - start);
    for (int64_t token = 0; token < count; ++token)
      for (int64_t d = 0; d < D; ++d)
        right[(token / kTile * D + d) * kTile + token % kTile] = qk[(start + token) * stride + d];
    for (int64_t column = 0; column < columns; column += kTile)
      products_by_panel<Scalar>(left.data() + column * D, 1, kTile, panels, kPanels, D, rotated.data() + column * kTokens,
                                kTokens);
    for (int64_t round = 0; round < R; ++round) {
      best_columns<Scalar>(rotated.data() + round * F * kTokens, factors, found);
      for (int64_t token = 0; token < count; ++token)
        buckets[round * T + start + token] = static_cast<Bucket>(found[token]);
    }
  }
}

template <typename Scalar, typename Bucket>
void hash_all(const at::Tensor& qk, const at::Tensor& rotations_HDRF, at::IntArrayRef factors, at::Tensor& buckets) {
  const int64_t B = qk.size(0), T = qk.size(1), H = qk.size(2), R = buckets.size(2);
  const int64_t stretches = (T + kHashedTogether - 1) / kHashedTogether;
  at::parallel_for(0, B * H * stretches, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slice = task / stretches, first = task % stretches * kHashedTogether, b = slice / H, h = slice % H;
      const auto rotations = rotations_HDRF.select(0, rotations_HDRF.size(0) == 1 ? 0 : h);
      hash_tokens<Scalar, Bucket>(qk.const_data_ptr<Scalar>() + b * qk.stride(0) + h * qk.stride(2), qk.stride(1),
                                  rotations, factors, first, std::min(first + kHashedTogether, T), T,
                                  buckets.mutable_data_ptr<Bucket>() + slice * R * T);
    }
  });
}

// qk [B, T, H, D] with its last dimension contiguous, rotations [H or 1, D, R, F] -> buckets [B, H, R, T] in int16 or int32.
at::Tensor hash(const at::Tensor& qk, const at::Tensor& rotations, at::IntArrayRef factors) {
  TORCH_CHECK(qk.stride(3) == 1 || qk.size(3) == 1, "qk must be contiguous in its last dimension");
  int64_t num_buckets = 1;
  for (const auto factor : factors) num_buckets *= factor;
  const bool narrow = num_buckets < (1 << 15);
  auto buckets = at::zeros({qk.size(0), qk.size(2), rotations.size(2), qk.size(1)},
                           qk.options().dtype(narrow ? at::kShort : at::kInt));
  if (rotations.size(3) == 0) return buckets;
  const auto turned = rotations.contiguous();
  AT_DISPATCH_FLOATING_TYPES(qk.scalar_type(), "hash", [&] {
    narrow ? hash_all<scalar_t, int16_t>(qk, turned, factors, buckets)
           : hash_all<scalar_t, int32_t>(qk, turned, factors, buckets);
  });
  return buckets;
}

// One stable pass of a counting sort: `order` rearranged by key[token] < num_keys.
template <typename Key>
void counting_pass(const std::vector<int32_t>& order, const Key* key, int64_t num_keys, int32_t* sorted,
                   std::vector<int64_t>& starts) {
  starts.assign(num_keys + 1, 0);
  for (const auto token : order) ++starts[key[token] + 1];
  std::partial_sum(starts.begin(), starts.end(), starts.begin());
  for (const auto token : order) sorted[starts[key[token]]++] = token;
}

// Ranks 0, 1, ... of the documents of one sequence; padding (-1) ranks last. Returns the number of ranks.
int64_t rank_documents(const int64_t* documents, int64_t T, std::vector<int32_t>& ranks) {
  const auto key = [](int64_t document) { return document < 0 ? std::numeric_limits<int64_t>::max() : document; };
  std::vector<int64_t> values(T);
  std::transform(documents, documents + T, values.begin(), key);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  ranks.resize(T);
  for (int64_t token = 0; token < T; ++token)
    ranks[token] = std::lower_bound(values.begin(), values.end(), key(documents[token])) - values.begin();
  return static_cast<int64_t>(values.size());
}

// Sort the tokens of every `chunk` entries by position: one counting pass, by the chunk of each token.
void sort_within_chunks(int64_t T, int64_t chunk, int32_t* order, std::vector<int64_t>& starts) {
  std::vector<int32_t> identity(T), chunks(T);
  std::iota(identity.begin(), identity.end(), 0);
  for (int64_t place = 0; place < T; ++place) chunks[order[place]] = place / chunk;
  counting_pass(identity, chunks.data(), (T + chunk - 1) / chunk, order, starts);
}

template <typename Bucket>
void sort_all(const at::Tensor& buckets, const at::Tensor& documents_BT, int64_t num_buckets, int64_t chunk,
              at::Tensor& orders) {
  const int64_t B = buckets.size(0), H = buckets.size(1), R = buckets.size(2), T = buckets.size(3);
  std::vector<std::vector<int32_t>> ranks(B);
  std::vector<int64_t> num_ranks(B, 0);
  if (documents_BT.defined())
    for (int64_t b = 0; b < B; ++b)
      num_ranks[b] = rank_documents(documents_BT.const_data_ptr<int64_t>() + b * T, T, ranks[b]);
  at::parallel_for(0, B * H * R, 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> order(T);
    std::vector<int64_t> starts;
    for (int64_t list = begin; list < end; ++list) {
      const int64_t b = list / (H * R);
      int32_t* sorted = orders.mutable_data_ptr<int32_t>() + list * T;
      std::iota(order.begin(), order.end(), 0);
      counting_pass(order, buckets.const_data_ptr<Bucket>() + list * T, num_buckets, sorted, starts);
      if (num_ranks[b] > 1) {
        std::copy_n(sorted, T, order.begin());
        counting_pass(order, ranks[b].data(), num_ranks[b], sorted, starts);
      }
      if (chunk > 0) sort_within_chunks(T, chunk, sorted, starts);
    }
  });
}

// Tokens of every round by (document, bucket, position), padding last: buckets [B, H, R, T] and documents [B, T] int64
// -> [B, H, R, T] int32. With `chunk`, the entries of each chunk are then put in order of position.
at::Tensor sort(const at::Tensor& buckets, const std::optional<at::Tensor>& documents, int64_t num_buckets, int64_t chunk) {
  const auto given = buckets.contiguous();
  const auto documents_BT = documents.has_value() ? documents->contiguous() : at::Tensor();
  auto orders = at::empty(given.sizes(), given.options().dtype(at::kInt));
  given.scalar_type() == at::kShort ? sort_all<int16_t>(given, documents_BT, num_buckets, chunk, orders)
                                    : sort_all<int32_t>(given, documents_BT, num_buckets, chunk, orders);
  return orders;
}

TORCH_LIBRARY_FRAGMENT(reformer_dist, library) {
  library.def("hash(Tensor qk, Tensor rotations, int[] factors) -> Tensor", &hash);
  library.def("sort(Tensor buckets, Tensor? documents, int num_buckets, int chunk) -> Tensor", &sort);
}

}  // namespace
}  // namespace reformer
