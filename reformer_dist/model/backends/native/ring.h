// The panels that the tiles of a stretch meet: read when a tile first meets them, given up when no later tile will.
#pragma once

#include <vector>

#include "panels.h"
#include "products.h"

namespace reformer {

template <typename T>
class Ring {
 public:
  Ring(const Problem<T>& problem, int64_t num_matrices)
      : problem_(problem),
        size_(problem.width * kTile),
        num_matrices_(num_matrices),
        capacity_(capacity(problem)),
        labels_(capacity_),
        scales_(capacity_ * kTile),
        matrices_(capacity_ * num_matrices * size_),
        queries_(size_) {}

  enum : int64_t { kKeys, kKeysTransposed, kFirstOwn };  // matrices of a panel; from the last on they are its owner's

  // Panels that a tile meets at most.
  static int64_t capacity(const Problem<T>& problem) {
    const auto& rule = problem.rule;
    if (rule.chunk > 0) return (rule.before + 1 + rule.after) * problem.tiles_of_chunk();
    return std::min((rule.furthest - rule.nearest) / kTile + 3, problem.tiles_of_round());
  }

  void start(int64_t first) { low_ = high_ = first; }

  // Make the ring hold exactly panels low..high; `fill` reads a new one, `drop` finishes an old one.
  template <typename Fill, typename Drop>
  void move(int64_t low, int64_t high, Fill&& fill, Drop&& drop) {
    for (; low_ < low; ++low_)
      if (low_ < high_) drop(low_);
    high_ = std::max(high_, low);
    for (; high_ <= high; ++high_) fill(high_);
  }

  template <typename Drop>
  void finish(Drop&& drop) {
    for (; low_ < high_; ++low_) drop(low_);
  }

  Labels<T>& labels(int64_t panel) { return labels_[slot(panel)]; }
  T* scales(int64_t panel) { return scales_ + slot(panel) * kTile; }
  T* matrix(int64_t panel, int64_t which) { return matrices_ + (slot(panel) * num_matrices_ + which) * size_; }

  // Read a panel's labels, its keys (as rows, and transposed) and their scales.
  void read(int64_t slice, int64_t panel) {
    constexpr int L = Lanes<T>::count;
    labels(panel).read(problem_, slice, panel);
    gather(problem_.k, problem_, slice, labels(panel), matrix(panel, kKeys));
    T* keys = matrix(panel, kKeysTransposed);
    transpose(matrix(panel, kKeys), problem_.width, keys);
    T* scales_of_panel = scales(panel);
    std::fill_n(scales_of_panel, kTile, problem_.scale);
    if (!problem_.shared) return;
    for (int lane = 0; lane < kTile; lane += L) {
      auto squares = fill<T>(static_cast<T>(problem_.D) * static_cast<T>(1e-6));
      for (int64_t d = 0; d < problem_.width; ++d) {
        const auto key = load<T>(keys + d * kTile + lane);
        squares += key * key;
      }
      store<T>(scales_of_panel + lane, squares);
    }
    for (int i = 0; i < kTile; ++i) scales_of_panel[i] = 1 / std::sqrt(scales_of_panel[i]);
  }

  // Labels and rows of a tile's queries. With shared queries-keys they are those of its own panel, which it always meets.
  const Labels<T>& read_queries(int64_t slice, int64_t panel) {
    if (problem_.shared) return labels(panel);
    query_labels_.read(problem_, slice, panel);
    gather(problem_.q, problem_, slice, query_labels_, queries_ + 0);
    return query_labels_;
  }
  const T* queries(int64_t panel) { return problem_.shared ? matrix(panel, kKeys) : queries_ + 0; }

 private:
  int64_t slot(int64_t panel) const { return ((panel % capacity_) + capacity_) % capacity_; }

  const Problem<T>& problem_;
  int64_t size_, num_matrices_, capacity_, low_ = 0, high_ = 0;
  std::vector<Labels<T>> labels_;
  Buffer<T> scales_, matrices_, queries_;
  Labels<T> query_labels_;
};

}  // namespace reformer
