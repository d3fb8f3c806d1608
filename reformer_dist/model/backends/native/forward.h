// Attention of a stretch of tiles in one round.
//
// A tile's scores against all panels it meets are a few kilobytes, so a round needs no running maximum; the rounds are
// combined in place as they come.
#pragma once

#include <vector>

#include "ring.h"

namespace reformer {

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
        ring_(problem, kNumMatrices),
        columns_(Ring<T>::capacity(problem) * kTile),
        outs_(problem.width * kTile),
        scores_(columns_ * kTile) {}

  void run(int64_t slice, int64_t round, int64_t first, int64_t last) {
    ring_.start(problem_.panels(round, first).first);
    for (int64_t tile = first; tile < last; ++tile) {
      const auto [low, high] = problem_.panels(round, tile);
      ring_.move(low, high, [&](int64_t panel) { read(slice, panel); }, [](int64_t) {});
      prefetch(problem_, slice, problem_.panel_ahead(tile, high), problem_.k, problem_.v, results_.out);
      const int64_t own = round * problem_.tiles_of_round() + tile;
      const auto& labels = ring_.read_queries(slice, own);
      if (labels.empty) continue;
      met_.clear(), keys_.clear(), values_.clear();
      for (int64_t panel = low; panel <= high; ++panel)
        if (labels.may_see(ring_.labels(panel), problem_.rule.compare)) {
          met_.push_back(panel);
          keys_.push_back(ring_.matrix(panel, Ring<T>::kKeysTransposed));
          values_.push_back(ring_.matrix(panel, kValues));
        }
      attend(labels, ring_.queries(own));
      combine(slice, labels);
      if (!results_.num_self_NRT) continue;
      for (int i = 0; i < kTile; ++i)
        if (labels.token[i] >= 0 && maxima_[i] == kNever) count_self(slice, round, labels.token[i], low, high);
    }
  }

 private:
  enum : int64_t { kValues = Ring<T>::kFirstOwn, kNumMatrices };
  static constexpr T kNever = -std::numeric_limits<T>::infinity();

  void read(int64_t slice, int64_t panel) {
    ring_.read(slice, panel);
    gather(problem_.v, problem_, slice, ring_.labels(panel), ring_.matrix(panel, kValues));
  }

  // Scores of the tile, their maxima, exponentials and sums, and the weighted sums of values.
  void attend(const Labels<T>& labels, const T* queries) {
    const int num_met = static_cast<int>(met_.size()), width = static_cast<int>(problem_.width);
    products_by_panel(queries, width, 1, keys_.data(), num_met, problem_.D, scores_ + 0, columns_);
    for (int i = 0; i < kTile; ++i) weigh(labels, i, num_met);
    product<T, false>(scores_ + 0, kTile, columns_, 1, values_.data(), width, num_met, kTile, outs_ + 0, width, width);
  }

  void weigh(const Labels<T>& labels, int i, int num_met) {
    constexpr int L = Lanes<T>::count;
    const Sight<T> sight(labels, i, problem_.rule);
    T* scores = scores_ + i * columns_;
    auto highest = fill<T>(kNever);
    for (int j = 0; j < num_met; ++j) {
      const auto& keys = ring_.labels(met_[j]);
      const T* scales = ring_.scales(met_[j]);
      for (int lane = 0; lane < kTile; lane += L) {
        T* at = scores + j * kTile + lane;
        const auto score = choose(sight.sees(keys, lane), load<T>(at) * load<T>(scales + lane), fill<T>(kNever));
        highest = larger(score, highest);
        store<T>(at, score);
      }
    }
    maxima_[i] = largest<T>(highest);
    totals_[i] = 1;
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
    if (problem_.dropout.hashes_BT) drop(labels, i, num_met);
  }

  void drop(const Labels<T>& labels, int i, int num_met) {
    const auto& dropout = problem_.dropout;
    for (int j = 0; j < num_met; ++j) {
      const auto& keys = ring_.labels(met_[j]);
      T* weights = scores_ + i * columns_ + j * kTile;
      for (int k = 0; k < kTile; ++k)
        weights[k] *= keeps(labels.hash[i], keys.hash[k], dropout.threshold) ? static_cast<T>(dropout.scale) : T{0};
    }
  }

  // The running combination: out and lse of all rounds so far, and this round's.
  void combine(int64_t slice, const Labels<T>& labels) {
    constexpr int L = Lanes<T>::count;
    alignas(kVectorBytes) T olds[kTile], both[kTile], weights[kTile], old_weights[kTile];
    T* lse_T = results_.lse_NT + slice * problem_.length;
    for (int i = 0; i < kTile; ++i) olds[i] = labels.token[i] < 0 ? 0 : lse_T[labels.token[i]];
    for (int lane = 0; lane < kTile; lane += L) {
      const auto old = load<T>(olds + lane), maxima = load<T>(maxima_ + lane);
      const auto here = maxima + logarithm(load<T>(totals_ + lane)), high = larger(old, here);
      const auto lse = high + logarithm(exponential(old - high) + exponential(here - high));
      store<T>(both + lane, lse);
      store<T>(weights + lane, exponential(maxima - lse));
      store<T>(old_weights + lane, exponential(old - lse));
    }
    for (int i = 0; i < kTile; ++i) {
      if (labels.token[i] < 0 || maxima_[i] == kNever) continue;
      lse_T[labels.token[i]] = both[i];
      T* out = results_.out.of(slice / problem_.H, slice % problem_.H, labels.token[i]);
      const T* here = outs_ + i * problem_.width;
      if (olds[i] == kNever) scale_row(here, weights[i], problem_.D, out);
      else mix_rows(here, weights[i], old_weights[i], problem_.D, out);
    }
  }

  // How often a query that saw nothing met its own token.
  void count_self(int64_t slice, int64_t round, int32_t token, int64_t low, int64_t high) {
    int count = 0;
    for (int64_t panel = low; panel <= high; ++panel) {
      const auto& keys = ring_.labels(panel);
      for (int k = 0; k < kTile; ++k) count += keys.document[k] >= 0 && keys.token[k] == token;
    }
    const int64_t list = (slice * problem_.R + round) * problem_.length;
    results_.num_self_NRT[list + token] = static_cast<uint8_t>(std::min(count, 255));
  }

  const Problem<T>& problem_;
  const Forward<T>& results_;
  Ring<T> ring_;
  int64_t columns_;
  Buffer<T> outs_, scores_;
  alignas(kVectorBytes) T maxima_[kTile], totals_[kTile];
  std::vector<int64_t> met_;
  std::vector<const T*> keys_, values_;
};

}  // namespace reformer
