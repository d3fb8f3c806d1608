// What a pass over a list of tokens needs to know, and the panels of kTile entries that it is worked through in.
//
// Every hash round orders the tokens of a slice (one head of one sequence) into a list. A tile of kTile queries meets the
// panels of kTile keys around it. In chunked attention each chunk starts a new panel, and the rounds' lists lie one behind
// the other in a circle; otherwise only the distance in the list counts.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <new>

#include "vectors.h"

namespace reformer {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;

enum class Compare : int64_t { kAny, kEarlier, kUpTo, kOther };

// Who sees whom; see `Rule` in rules.py.
struct Rule {
  int64_t chunk = 0;  // chunk length, or 0 where the reach rules
  int64_t before = 0, after = 0;  // chunks
  int64_t empty = 0;  // chunks without tokens behind each round's own
  int64_t nearest = 0, furthest = 0;  // distance back in the list, where there are no chunks
  Compare compare = Compare::kAny;
  bool circular = false;
  bool count_self = false;
  bool own_value = true;  // of a token that saw nothing; else it gets nothing
};

struct Dropout {
  const int64_t* hashes_BT = nullptr;  // null without dropout
  int64_t first_head = 0;
  uint64_t threshold = 0;
  double scale = 1;
};

// The rows [b, t, h, :] of a tensor [B, T, H, D].
template <typename T>
struct Rows {
  T* data = nullptr;
  int64_t batch = 0, token = 0, head = 0;

  T* of(int64_t b, int64_t h, int64_t t) const { return data + b * batch + t * token + h * head; }
};

template <typename T>
struct Problem {
  Rows<const T> q, k, v;
  int64_t B = 0, length = 0, H = 0, D = 0, R = 1;
  int64_t width = 0;  // D rounded up to whole tiles
  bool shared = false;  // keys are the queries at unit length, and k is q
  T scale = 1;  // of the scores, where keys are not shared
  const int32_t* orders_NRT = nullptr;  // null: the given order
  const void* buckets_NRT = nullptr;  // null: buckets do not matter
  bool narrow = false;  // buckets are int16
  const int64_t* documents_BT = nullptr;
  Dropout dropout;
  Rule rule;

  int64_t num_slices() const { return B * H; }
  int64_t tiles_of_chunk() const { return (rule.chunk + kTile - 1) / kTile; }
  int64_t tiles_of_round() const {
    if (rule.chunk == 0) return (length + kTile - 1) / kTile;
    return ((length + rule.chunk - 1) / rule.chunk + rule.empty) * tiles_of_chunk();
  }

  // First and last panel that tile `tile` of round `round` meets, counted over all rounds; a circle may leave [0, total).
  std::pair<int64_t, int64_t> panels(int64_t round, int64_t tile) const {
    const int64_t start = round * tiles_of_round(), end = start + tiles_of_round();
    const auto down = [](int64_t a) { return a >= 0 ? a / kTile : -((-a + kTile - 1) / kTile); };
    int64_t low, high;
    if (rule.chunk > 0) {
      const int64_t size = tiles_of_chunk(), chunk = tile / size;
      low = start + (chunk - rule.before) * size;
      high = start + (chunk + 1 + rule.after) * size - 1;
    } else {
      low = start + down(tile * kTile - rule.furthest);
      high = start + down(tile * kTile + kTile - 1 - rule.nearest);
    }
    if (rule.circular) return {low, high};
    return {std::max(low, start), std::min(high, end - 1)};
  }

  // A panel that a later tile meets first: while a chunk's tiles are worked on, the next chunk's panels, one after the other.
  int64_t panel_ahead(int64_t tile, int64_t high) const { return high + 1 + (rule.chunk > 0 ? tile % tiles_of_chunk() : 0); }

  // Where the list of a panel's round begins, the panel's first place in it, and how many entries it has (none below 1).
  struct Entries {
    int64_t list, first, count;
  };
  Entries entries(int64_t slice, int64_t panel) const {
    const int64_t per_round = tiles_of_round(), total = per_round * R, wrapped = ((panel % total) + total) % total;
    const int64_t tile = wrapped % per_round, list = (slice * R + wrapped / per_round) * length;
    if (rule.chunk == 0) return {list, tile * kTile, length - tile * kTile};
    const int64_t size = tiles_of_chunk(), offset = tile % size * kTile, first = tile / size * rule.chunk + offset;
    return {list, first, std::min(rule.chunk - offset, length - first)};
  }

  int32_t token(int64_t list, int64_t place) const {
    return orders_NRT ? orders_NRT[list + place] : static_cast<int32_t>(place);
  }
};

inline uint64_t mix(uint64_t x) {  // the finaliser of splitmix64, as in randomness.py
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// Dropout multiplier of a pair, as `pair_keep` in randomness.py.
inline bool keeps(uint64_t hash_query, uint64_t hash_key, uint64_t threshold) {
  uint64_t z = hash_query + hash_key * kGolden;
  z = (z ^ (z >> 32)) * 0xD6E8FEB86659FD93;
  return (z >> 48) >= threshold;
}

// What decides who sees whom, for the entries of one panel.
template <typename T>
struct Labels {
  std::array<int32_t, kTile> token;  // -1 where the list holds none
  alignas(kVectorBytes) Integer<T> document[kTile], bucket[kTile], position[kTile], place[kTile];
  std::array<uint64_t, kTile> hash;
  Integer<T> document_low, document_high, bucket_low, bucket_high, position_low, position_high;
  bool empty;

  void read(const Problem<T>& problem, int64_t slice, int64_t panel) {
    const int64_t b = slice / problem.H;
    const auto [list, first, count] = problem.entries(slice, panel);
    for (int i = 0; i < kTile; ++i) token[i] = i < count ? problem.token(list, first + i) : -1;
    for (int i = 0; i < kTile; ++i) {
      place[i] = static_cast<Integer<T>>(panel * kTile + i);
      position[i] = token[i];
      bucket[i] = 0;
      document[i] = token[i] < 0 ? -1 : 0;
    }
    if (problem.documents_BT)
      for (int i = 0; i < kTile; ++i)
        if (token[i] >= 0) document[i] = problem.documents_BT[b * problem.length + token[i]];
    if (problem.buckets_NRT)
      for (int i = 0; i < kTile; ++i)
        if (document[i] >= 0)
          bucket[i] = problem.narrow ? static_cast<const int16_t*>(problem.buckets_NRT)[list + token[i]]
                                     : static_cast<const int32_t*>(problem.buckets_NRT)[list + token[i]];
    find_bounds();
    if (problem.dropout.hashes_BT)
      for (int i = 0; i < kTile; ++i)
        hash[i] = token[i] < 0 ? 0 : token_hash(problem, slice, token[i]);
  }

  // Least and greatest of what isn't padding.
  void find_bounds() {
    constexpr auto kLeast = std::numeric_limits<Integer<T>>::min(), kMost = std::numeric_limits<Integer<T>>::max();
    document_low = bucket_low = position_low = kMost;
    document_high = bucket_high = position_high = kLeast;
    for (int i = 0; i < kTile; ++i) {
      const bool is_there = document[i] >= 0;
      document_low = std::min(document_low, is_there ? document[i] : kMost);
      document_high = std::max(document_high, is_there ? document[i] : kLeast);
      bucket_low = std::min(bucket_low, is_there ? bucket[i] : kMost);
      bucket_high = std::max(bucket_high, is_there ? bucket[i] : kLeast);
      position_low = std::min(position_low, is_there ? position[i] : kMost);
      position_high = std::max(position_high, is_there ? position[i] : kLeast);
    }
    empty = document_high < 0;
  }

  static uint64_t token_hash(const Problem<T>& problem, int64_t slice, int64_t token) {
    const auto hash = static_cast<uint64_t>(problem.dropout.hashes_BT[slice / problem.H * problem.length + token]);
    return mix(hash + static_cast<uint64_t>(slice % problem.H + problem.dropout.first_head));
  }

  // Whether any of these queries may see any of those keys; a quick test that errs towards yes.
  bool may_see(const Labels& keys, Compare compare) const {
    if (empty || keys.empty) return false;
    if (keys.document_high < document_low || keys.document_low > document_high) return false;
    if (keys.bucket_high < bucket_low || keys.bucket_low > bucket_high) return false;
    if (compare == Compare::kEarlier) return keys.position_low < position_high;
    return compare != Compare::kUpTo || keys.position_low <= position_high;
  }
};

// One query's side of the comparison with Lanes keys at a time.
template <typename T>
struct Sight {
  Mask<T> document, bucket, place_low, place_high, limit, other;

  Sight(const Labels<T>& query, int i, const Rule& rule) {
    constexpr auto kLast = std::numeric_limits<Integer<T>>::max();
    const auto position = query.position[i], place = query.place[i];
    const bool everywhere = rule.chunk > 0;
    document = Mask<T>{} + (query.document[i] < 0 ? -2 : query.document[i]);
    bucket = Mask<T>{} + query.bucket[i];
    place_low = Mask<T>{} + (everywhere ? -kLast : place - static_cast<Integer<T>>(rule.furthest));
    place_high = Mask<T>{} + (everywhere ? kLast : place - static_cast<Integer<T>>(rule.nearest));
    limit = Mask<T>{} + (rule.compare == Compare::kEarlier ? position - 1 : rule.compare == Compare::kUpTo ? position : kLast);
    other = Mask<T>{} + (rule.compare == Compare::kOther ? position : -2);
  }

  // Which of the keys from `lane` on it sees.
  auto sees(const Labels<T>& keys, int lane) const {
    const auto position = load_mask<T>(keys.position + lane), place = load_mask<T>(keys.place + lane);
    return equal(load_mask<T>(keys.document + lane), document) & equal(load_mask<T>(keys.bucket + lane), bucket) &
           at_least(place, place_low) & at_least(place_high, place) & at_least(limit, position) & different(position, other);
  }
};

// Cache-line aligned scratch, not initialised.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<T*>(::operator new(size * sizeof(T), std::align_val_t{64}))) {}
  T* operator+(int64_t offset) const { return data_.get() + offset; }

 private:
  struct Free {
    void operator()(T* data) const { ::operator delete(data, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
};

// Copy the rows of a panel's tokens into [kTile, width], with zeros around.
template <typename T>
inline void gather(const Rows<const T>& rows, const Problem<T>& problem, int64_t slice, const Labels<T>& labels, T* to) {
  constexpr int L = Lanes<T>::count;
  const int64_t b = slice / problem.H, h = slice % problem.H, whole = problem.D / L * L;
  for (int i = 0; i < kTile; ++i, to += problem.width) {
    int64_t d = 0;
    if (labels.token[i] >= 0) {
      const T* from = rows.of(b, h, labels.token[i]);
      for (; d < whole; d += L) store<T>(to + d, load<T>(from + d));
      for (; d < problem.D; ++d) to[d] = from[d];
    }
    for (; d < problem.width; ++d) to[d] = 0;
  }
}

// Ask for the rows of a panel, whose tokens lie anywhere in memory, while others are worked on.
template <typename T, typename... Tensors>
inline void prefetch(const Problem<T>& problem, int64_t slice, int64_t panel, const Tensors&... tensors) {
  constexpr int64_t kLine = 64 / sizeof(T);
  if (problem.orders_NRT == nullptr) return;
  const auto [list, first, count] = problem.entries(slice, panel);
  const int64_t b = slice / problem.H, h = slice % problem.H;
  for (int64_t i = 0; i < std::min<int64_t>(count, kTile); ++i)
    for (int64_t d = 0; d < problem.D; d += kLine)
      (__builtin_prefetch(tensors.of(b, h, problem.token(list, first + i)) + d), ...);
}

// [kTile, width] -> [width, kTile].
inline void transpose(const float* from, int64_t width, float* to) {
  typedef float V __attribute__((vector_size(32)));
  constexpr int L = 8;
  for (int64_t column = 0; column < width; column += L)
    for (int row = 0; row < kTile; row += L) {
      V x[L], y[L];
      for (int i = 0; i < L; ++i) std::memcpy(&x[i], from + (row + i) * width + column, sizeof(V));
      for (int i = 0; i < L; i += 2) {
        y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
      }
      for (int i = 0; i < L; i += 4)
        for (int j = 0; j < 2; ++j) {
          x[i + j] = __builtin_shufflevector(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
          x[i + j + 2] = __builtin_shufflevector(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
      for (int i = 0; i < 4; ++i) {
        const V low = __builtin_shufflevector(x[i], x[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        const V high = __builtin_shufflevector(x[i], x[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
        std::memcpy(to + (column + i) * kTile + row, &low, sizeof low);
        std::memcpy(to + (column + i + 4) * kTile + row, &high, sizeof high);
      }
    }
}

inline void transpose(const double* from, int64_t width, double* to) {
  for (int64_t column = 0; column < width; ++column)
    for (int row = 0; row < kTile; ++row) to[column * kTile + row] = from[row * width + column];
}

}  // namespace reformer
