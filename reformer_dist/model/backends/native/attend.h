// Attention of a stretch of tiles in one round, and its gradient.
//
// A tile's scores against all panels it meets are a few kilobytes, so a round needs no running maximum; the rounds are
// combined in place as they come. The gradient of a round is ordinary attention's, given the combined log-sum-exp.
#pragma once

#include <vector>

#include "panels.h"

namespace reformer {

// The panels that the tiles of a stretch meet: read when a tile first meets them, given up when no later tile will.
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
        matrices_(capacity_ * num_matrices * size_) {}

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

  // Read labels, keys (as rows, and transposed) and their scales.
  void read_keys(int64_t slice, int64_t panel, int64_t rows, int64_t transposed) {
    auto& entries = labels(panel);
    entries.read(problem_, slice, panel);
    T* keys = matrix(panel, rows);
    gather(problem_.k, problem_, slice, entries, keys);
    transpose(keys, problem_.width, matrix(panel, transposed));
    for (int i = 0; i < kTile; ++i) {
      T* scale = scales(panel) + i;
      *scale = problem_.scale;
      if (!problem_.shared) continue;
      const T* key = keys + i * problem_.width;
      *scale = 1 / std::sqrt(dot(key, key, problem_.width) + static_cast<T>(problem_.D) * static_cast<T>(1e-6));
    }
  }

 private:
  int64_t slot(int64_t panel) const { return ((panel % capacity_) + capacity_) % capacity_; }

  const Problem<T>& problem_;
  int64_t size_, num_matrices_, capacity_, low_ = 0, high_ = 0;
  std::vector<Labels<T>> labels_;
  Buffer<T> scales_, matrices_;
};

template <typename T>
struct Forward {
  Rows<T> out;
  T* lse_NT;  // -inf before the first round
  uint8_t* num_self_NRT;  // how often a query without keys met itself; null where it does not matter
};

// Add a stretch of tiles of one round to the outputs and log-sum-exps of its queries.
template <typename T>
class ForwardPass {
 public:
  explicit ForwardPass(const Problem<T>& problem, const Forward<T>& results)
      : problem_(problem),
        results_(results),
        ring_(problem, 3),
        columns_(Ring<T>::capacity(problem) * kTile),
        queries_(problem.width * kTile),
        outs_(problem.width * kTile),
        scores_(columns_ * kTile) {}

  void run(int64_t slice, int64_t round, int64_t first, int64_t last) {
    ring_.start(problem_.panels(round, first).first);
    for (int64_t tile = first; tile < last; ++tile) {
      const auto [low, high] = problem_.panels(round, tile);
      ring_.move(low, high, [&](int64_t panel) { read(slice, panel); }, [](int64_t) {});
      labels_.read(problem_, slice, round * problem_.tiles_of_round() + tile);
      if (labels_.empty) continue;
      gather(problem_.q, problem_, slice, labels_, queries_ + 0);
      met_.clear(), values_.clear();
      for (int64_t panel = low; panel <= high; ++panel)
        if (labels_.may_see(ring_.labels(panel), problem_.rule.compare)) {
          met_.push_back(panel);
          values_.push_back(ring_.matrix(panel, kValues));
        }
      attend();
      for (int i = 0; i < kTile; ++i) {
        if (labels_.token[i] < 0) continue;
        if (maxima_[i] > kNever || std::isnan(maxima_[i])) combine(slice, i);
        else if (results_.num_self_NRT) count_self(slice, round, i, low, high);
      }
    }
  }

 private:
  enum : int64_t { kKeys, kKeysTransposed, kValues };
  static constexpr T kNever = -std::numeric_limits<T>::infinity();

  void read(int64_t slice, int64_t panel) {
    ring_.read_keys(slice, panel, kKeys, kKeysTransposed);
    gather(problem_.v, problem_, slice, ring_.labels(panel), ring_.matrix(panel, kValues));
    prefetch_next(problem_, slice, panel, problem_.k, problem_.v, results_.out);
  }

  // Scores of the tile, their maxima, exponentials and sums, and the weighted sums of values.
  void attend() {
    const int num_met = static_cast<int>(met_.size());
    for (int j = 0; j < num_met; ++j) {
      const T* keys = ring_.matrix(met_[j], kKeysTransposed);
      product<T, false>(queries_ + 0, 0, problem_.width, 1, &keys, kTile, 1, problem_.D, scores_ + j * kTile, columns_, kTile);
    }
    for (int i = 0; i < kTile; ++i) weigh(i, num_met);
    product<T, false>(scores_ + 0, kTile, columns_, 1, values_.data(), problem_.width, num_met, kTile, outs_ + 0,
                      problem_.width, static_cast<int>(problem_.width));
  }

  void weigh(int i, int num_met) {
    constexpr int L = Lanes<T>::count;
    const Sight<T> sight(labels_, i, problem_.rule);
    T* scores = scores_ + i * columns_;
    auto highest = fill<T>(kNever);
    for (int j = 0; j < num_met; ++j) {
      const auto& keys = ring_.labels(met_[j]);
      const T* scales = ring_.scales(met_[j]);
      for (int lane = 0; lane < kTile; lane += L) {
        T* at = scores + j * kTile + lane;
        const auto score = sight.sees(keys, lane) ? load<T>(at) * load<T>(scales + lane) : fill<T>(kNever);
        highest = score > highest ? score : highest;
        store<T>(at, score);
      }
    }
    maxima_[i] = largest<T>(highest);
    if (maxima_[i] == kNever) {
      std::fill(scores, scores + num_met * kTile, T{0});
      return;
    }
    Vector<T> total{};
    for (int column = 0; column < num_met * kTile; column += L) {
      const auto weight = exponential(load<T>(scores + column) - maxima_[i]);
      total += weight;
      store<T>(scores + column, weight);
    }
    totals_[i] = sum<T>(total);
    if (problem_.dropout.hashes_BT) drop(i, num_met);
  }

  void drop(int i, int num_met) {
    const auto& dropout = problem_.dropout;
    for (int j = 0; j < num_met; ++j) {
      const auto& keys = ring_.labels(met_[j]);
      T* weights = scores_ + i * columns_ + j * kTile;
      for (int k = 0; k < kTile; ++k)
        weights[k] *= keeps(labels_.hash[i], keys.hash[k], dropout.threshold) ? static_cast<T>(dropout.scale) : T{0};
    }
  }

  // The running combination: out and lse of all rounds so far, and this round's.
  void combine(int64_t slice, int i) {
    T& lse = results_.lse_NT[slice * problem_.length + labels_.token[i]];
    T* out = results_.out.of(slice / problem_.H, slice % problem_.H, labels_.token[i]);
    const T lse_here = maxima_[i] + std::log(totals_[i]);
    const bool is_first = std::isinf(lse) && lse < 0;
    const T both = is_first ? lse_here : std::max(lse, lse_here) + std::log1p(std::exp(-std::abs(lse - lse_here)));
    const T weight = std::exp(maxima_[i] - both);
    if (is_first)
      scale_row(outs_ + i * problem_.width, weight, problem_.D, out);
    else
      mix_rows(outs_ + i * problem_.width, weight, std::exp(lse - both), problem_.D, out);
    lse = both;
  }

  // How often a query that saw nothing met its own token.
  void count_self(int64_t slice, int64_t round, int i, int64_t low, int64_t high) {
    int count = 0;
    for (int64_t panel = low; panel <= high; ++panel) {
      const auto& keys = ring_.labels(panel);
      for (int k = 0; k < kTile; ++k) count += keys.document[k] >= 0 && keys.token[k] == labels_.token[i];
    }
    const int64_t list = (slice * problem_.R + round) * problem_.length;
    results_.num_self_NRT[list + labels_.token[i]] = static_cast<uint8_t>(std::min(count, 255));
  }

  const Problem<T>& problem_;
  const Forward<T>& results_;
  Ring<T> ring_;
  Labels<T> labels_;
  int64_t columns_;
  Buffer<T> queries_, outs_, scores_;
  T maxima_[kTile], totals_[kTile];
  std::vector<int64_t> met_;
  std::vector<const T*> values_;
};

template <typename T>
struct Backward {
  Rows<const T> grad;
  const T* lse_NT;  // combined; +inf where no key was seen
  const T* delta_NT;  // gradient . output
  Rows<T> dq, dk, dv;  // added to; dk is dq where keys are shared
};

// Add the gradients of a stretch of tiles of one round.
template <typename T>
class BackwardPass {
 public:
  explicit BackwardPass(const Problem<T>& problem, const Backward<T>& results)
      : problem_(problem),
        results_(results),
        ring_(problem, 5),
        columns_(Ring<T>::capacity(problem) * kTile),
        queries_(problem.width * kTile),
        grads_(problem.width * kTile),
        dqueries_(problem.width * kTile),
        weights_(columns_ * kTile),
        dscores_(columns_ * kTile) {}

  void run(int64_t slice, int64_t round, int64_t first, int64_t last) {
    const auto finish = [&](int64_t panel) { add_keys(slice, panel); };
    ring_.start(problem_.panels(round, first).first);
    for (int64_t tile = first; tile < last; ++tile) {
      const auto [low, high] = problem_.panels(round, tile);
      ring_.move(low, high, [&](int64_t panel) { read(slice, panel); }, finish);
      labels_.read(problem_, slice, round * problem_.tiles_of_round() + tile);
      met_.clear(), keys_.clear();
      for (int64_t panel = low; panel <= high; ++panel)
        if (labels_.may_see(ring_.labels(panel), problem_.rule.compare)) {
          met_.push_back(panel);
          keys_.push_back(ring_.matrix(panel, kKeys));
        }
      if (!met_.empty()) attend(slice);
    }
    ring_.finish(finish);
  }

 private:
  enum : int64_t { kKeys, kKeysTransposed, kValuesTransposed, kKeyGrads, kValueGrads };

  void read(int64_t slice, int64_t panel) {
    ring_.read_keys(slice, panel, kKeys, kKeysTransposed);
    T* values = ring_.matrix(panel, kValueGrads);  // as scratch
    gather(problem_.v, problem_, slice, ring_.labels(panel), values);
    transpose(values, problem_.width, ring_.matrix(panel, kValuesTransposed));
    const int64_t size = problem_.width * kTile;
    std::fill(values, values + size, T{0});
    std::fill(ring_.matrix(panel, kKeyGrads), ring_.matrix(panel, kKeyGrads) + size, T{0});
    prefetch_next(problem_, slice, panel, problem_.k, problem_.v, results_.grad, results_.dk, results_.dv);
  }

  void attend(int64_t slice) {
    const int64_t width = problem_.width;
    const int columns = static_cast<int>(width), num_met = static_cast<int>(met_.size());
    gather(problem_.q, problem_, slice, labels_, queries_ + 0);
    gather(results_.grad, problem_, slice, labels_, grads_ + 0);
    for (int j = 0; j < num_met; ++j) {
      const T* keys = ring_.matrix(met_[j], kKeysTransposed);
      const T* values = ring_.matrix(met_[j], kValuesTransposed);
      product<T, false>(queries_ + 0, 0, width, 1, &keys, kTile, 1, problem_.D, weights_ + j * kTile, columns_, kTile);
      product<T, false>(grads_ + 0, 0, width, 1, &values, kTile, 1, problem_.D, dscores_ + j * kTile, columns_, kTile);
    }
    for (int i = 0; i < kTile; ++i) weigh(slice, i, num_met);
    const T* queries = queries_ + 0;
    const T* grads = grads_ + 0;
    for (int j = 0; j < num_met; ++j) {
      product<T, true>(weights_ + j * kTile, 0, 1, columns_, &grads, width, 1, kTile, ring_.matrix(met_[j], kValueGrads),
                       width, columns);
      product<T, true>(dscores_ + j * kTile, 0, 1, columns_, &queries, width, 1, kTile, ring_.matrix(met_[j], kKeyGrads),
                       width, columns);
    }
    product<T, false>(dscores_ + 0, kTile, columns_, 1, keys_.data(), width, num_met, kTile, dqueries_ + 0, width, columns);
    for (int i = 0; i < kTile; ++i)
      if (labels_.token[i] >= 0) mix_rows<T>(dqueries_ + i * width, 1, 1, problem_.D, row(results_.dq, slice, labels_.token[i]));
  }

  // Scores and their gradients of query i become weights and scaled gradients: dS_ij times the key's scale.
  void weigh(int64_t slice, int i, int num_met) {
    constexpr int L = Lanes<T>::count;
    const Sight<T> sight(labels_, i, problem_.rule);
    const int64_t row = slice * problem_.length + std::max<int64_t>(labels_.token[i], 0);
    const T lse = results_.lse_NT[row], delta = results_.delta_NT[row];
    for (int j = 0; j < num_met; ++j) {
      const auto& keys = ring_.labels(met_[j]);
      const T* scales = ring_.scales(met_[j]);
      const auto keep = keep_factors(i, keys);
      for (int lane = 0; lane < kTile; lane += L) {
        T* weight_at = weights_ + i * columns_ + j * kTile + lane;
        T* dscore_at = dscores_ + i * columns_ + j * kTile + lane;
        const auto scale = load<T>(scales + lane);
        const auto weight = sight.sees(keys, lane) ? exponential(load<T>(weight_at) * scale - lse) : Vector<T>{};
        const auto kept = load<T>(keep.data() + lane);
        store<T>(dscore_at, weight * (kept * load<T>(dscore_at) - delta) * scale);
        store<T>(weight_at, weight * kept);
      }
    }
  }

  std::array<T, kTile> keep_factors(int i, const Labels<T>& keys) const {
    std::array<T, kTile> keep;
    keep.fill(1);
    const auto& dropout = problem_.dropout;
    if (dropout.hashes_BT)
      for (int k = 0; k < kTile; ++k)
        keep[k] = keeps(labels_.hash[i], keys.hash[k], dropout.threshold) ? static_cast<T>(dropout.scale) : T{0};
    return keep;
  }

  // Bring a panel's sums to its tokens. A shared key is q s with s = (|q|^2 + eps)^-1/2, so that its gradient g / s reaches
  // q as g - s^2 (q . g) q; g, which already holds the scale, is what was summed.
  void add_keys(int64_t slice, int64_t panel) {
    const auto& entries = ring_.labels(panel);
    const int64_t width = problem_.width;
    for (int i = 0; i < kTile; ++i) {
      if (entries.token[i] < 0) continue;
      const T* dkey = ring_.matrix(panel, kKeyGrads) + i * width;
      const T* key = ring_.matrix(panel, kKeys) + i * width;
      const T scale = ring_.scales(panel)[i];
      T* dk = row(results_.dk, slice, entries.token[i]);
      mix_rows<T>(dkey, 1, 1, problem_.D, dk);
      if (problem_.shared) mix_rows<T>(key, -scale * scale * dot(key, dkey, width), 1, problem_.D, dk);
      mix_rows<T>(ring_.matrix(panel, kValueGrads) + i * width, 1, 1, problem_.D, row(results_.dv, slice, entries.token[i]));
    }
  }

  T* row(const Rows<T>& rows, int64_t slice, int64_t token) const {
    return rows.of(slice / problem_.H, slice % problem_.H, token);
  }

  const Problem<T>& problem_;
  const Backward<T>& results_;
  Ring<T> ring_;
  Labels<T> labels_;
  int64_t columns_;
  Buffer<T> queries_, grads_, dqueries_, weights_, dscores_;
  std::vector<int64_t> met_;
  std::vector<const T*> keys_;
};

}  // namespace reformer
