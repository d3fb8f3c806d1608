// The gradient of attention of a stretch of tiles in one round: ordinary attention's, given the combined log-sum-exp.
#pragma once

#include <vector>

#include "ring.h"

namespace reformer {

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
        ring_(problem, kNumMatrices),
        columns_(Ring<T>::capacity(problem) * kTile),
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
      prefetch(problem_, slice, problem_.panel_ahead(tile, high), problem_.k, problem_.v, results_.grad);
      const int64_t own = round * problem_.tiles_of_round() + tile;
      const auto& labels = ring_.read_queries(slice, own);
      met_.clear(), keys_.clear(), keys_transposed_.clear(), values_transposed_.clear();
      for (int64_t panel = low; panel <= high; ++panel)
        if (labels.may_see(ring_.labels(panel), problem_.rule.compare)) {
          met_.push_back(panel);
          keys_.push_back(ring_.matrix(panel, Ring<T>::kKeys));
          keys_transposed_.push_back(ring_.matrix(panel, Ring<T>::kKeysTransposed));
          values_transposed_.push_back(ring_.matrix(panel, kValuesTransposed));
        }
      if (!met_.empty()) attend(slice, own, labels);
    }
    ring_.finish(finish);
  }

 private:
  enum : int64_t { kValuesTransposed = Ring<T>::kFirstOwn, kKeyGrads, kValueGrads, kQueryGrads, kNumMatrices };

  void read(int64_t slice, int64_t panel) {
    ring_.read(slice, panel);
    T* values = ring_.matrix(panel, kValueGrads);  // as scratch
    gather(problem_.v, problem_, slice, ring_.labels(panel), values);
    transpose(values, problem_.width, ring_.matrix(panel, kValuesTransposed));
    for (const auto sums : {kKeyGrads, kValueGrads, kQueryGrads})
      std::fill_n(ring_.matrix(panel, sums), problem_.width * kTile, T{0});
  }

  void attend(int64_t slice, int64_t own, const Labels<T>& labels) {
    const int width = static_cast<int>(problem_.width), depth = static_cast<int>(problem_.D);
    const int num_met = static_cast<int>(met_.size());
    const T* queries = ring_.queries(own);
    const T* grads = grads_ + 0;
    gather(results_.grad, problem_, slice, labels, grads_ + 0);
    products_by_panel(queries, width, 1, keys_transposed_.data(), num_met, depth, weights_ + 0, columns_);
    products_by_panel(grads, width, 1, values_transposed_.data(), num_met, depth, dscores_ + 0, columns_);
    for (int i = 0; i < kTile; ++i) weigh(slice, labels, i, num_met);
    for (int j = 0; j < num_met; ++j) {
      product<T, true>(weights_ + j * kTile, 0, 1, columns_, &grads, width, 1, kTile, ring_.matrix(met_[j], kValueGrads),
                       width, width);
      product<T, true>(dscores_ + j * kTile, 0, 1, columns_, &queries, width, 1, kTile, ring_.matrix(met_[j], kKeyGrads),
                       width, width);
    }
    T* dqueries = problem_.shared ? ring_.matrix(own, kQueryGrads) : dqueries_ + 0;
    product<T, false>(dscores_ + 0, kTile, columns_, 1, keys_.data(), width, num_met, kTile, dqueries, width, width);
    if (problem_.shared) return;  // they go home with their panel
    for (int i = 0; i < kTile; ++i)
      if (labels.token[i] >= 0) add_row<T>(dqueries + i * width, depth, row(results_.dq, slice, labels.token[i]));
  }

  // Scores and their gradients of query i become weights and scaled gradients: dS_ij times the key's scale.
  void weigh(int64_t slice, const Labels<T>& labels, int i, int num_met) {
    constexpr int L = Lanes<T>::count;
    const Sight<T> sight(labels, i, problem_.rule);
    const int64_t row = slice * problem_.length + std::max<int64_t>(labels.token[i], 0);
    const T lse = results_.lse_NT[row], delta = results_.delta_NT[row];
    for (int j = 0; j < num_met; ++j) {
      const auto& keys = ring_.labels(met_[j]);
      const T* scales = ring_.scales(met_[j]);
      T *weights = weights_ + i * columns_ + j * kTile, *dscores = dscores_ + i * columns_ + j * kTile;
      const auto keep = keep_factors(labels, i, keys);
      for (int lane = 0; lane < kTile; lane += L) {
        const auto scale = load<T>(scales + lane), kept = load<T>(keep.data() + lane);
        const auto seen = exponential(load<T>(weights + lane) * scale - lse);
        const auto weight = choose(sight.sees(keys, lane), seen, Vector<T>{});
        store<T>(dscores + lane, weight * (kept * load<T>(dscores + lane) - delta) * scale);
        store<T>(weights + lane, weight * kept);
      }
    }
  }

  std::array<T, kTile> keep_factors(const Labels<T>& labels, int i, const Labels<T>& keys) const {
    std::array<T, kTile> keep;
    keep.fill(1);
    const auto& dropout = problem_.dropout;
    if (dropout.hashes_BT)
      for (int k = 0; k < kTile; ++k)
        keep[k] = keeps(labels.hash[i], keys.hash[k], dropout.threshold) ? static_cast<T>(dropout.scale) : T{0};
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
      T* dk = row(results_.dk, slice, entries.token[i]);
      if (problem_.shared) {
        const T* key = ring_.matrix(panel, Ring<T>::kKeys) + i * width;
        const T scale = ring_.scales(panel)[i];
        const T along = -scale * scale * dot(key, dkey, width);
        add_rows(dkey, ring_.matrix(panel, kQueryGrads) + i * width, key, along, problem_.D, dk);
      } else {
        add_row(dkey, problem_.D, dk);
      }
      add_row(ring_.matrix(panel, kValueGrads) + i * width, problem_.D, row(results_.dv, slice, entries.token[i]));
    }
  }

  T* row(const Rows<T>& rows, int64_t slice, int64_t token) const {
    return rows.of(slice / problem_.H, slice % problem_.H, token);
  }

  const Problem<T>& problem_;
  const Backward<T>& results_;
  Ring<T> ring_;
  int64_t columns_;
  Buffer<T> grads_, dqueries_, weights_, dscores_;
  std::vector<int64_t> met_;
  std::vector<const T*> keys_, keys_transposed_, values_transposed_;
};

}  // namespace reformer
