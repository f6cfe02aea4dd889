// Scores that decay by overlaps with items of higher score (math/score_decay.h), on the CPU. Items stand by decreasing
// score; what covers an item is known before the next one is looked at, so that every pair is looked at once. A step
// takes some rows: threads compare them with all items before the step, and one thread, in order, with those within it.
//
// What overlaps are of is told by a type
//
//   struct Overlaps {
//     static constexpr int64_t kRowsInStep = …;  // few where a pair is much work: one thread has those within a step
//     int64_t pair_cost() const;                 // elements that a pair stands for, to share work by
//     // Of `row` with `first`, first + 1, …, 16 of them; 0 from `end` on. False if all are 0: `iou` is then not set.
//     bool ious(int64_t row, int64_t first, int64_t end, C (&iou)[kLanes]) const;
//   };
#pragma once

#include <tuple>

#include "cpu/parallel.h"
#include "cpu/score_order.h"
#include "math/score_decay.h"

namespace handgrad::score_decay {

inline constexpr int64_t kLanes = 16;

// The parts of their scores that some items keep, which are of one class.
template <class C, class Decay, class Overlaps>
class KeptParts {
 public:
  KeptParts(const Overlaps& overlaps, const Decay& decay, int64_t count)
      : overlaps_(overlaps),
        decay_(decay),
        cover_(static_cast<size_t>(count), C(0)),
        smallest_(static_cast<size_t>(count), Decay::kUntouched),
        // Lanes beyond the last item are read, with an overlap of 0.
        relief_(static_cast<size_t>(count + kLanes), decay.relief(C(0))) {}

  // Of items [begin, end), a class. Classes may be taken by different threads.
  void find(int64_t begin, int64_t end) {
    for (int64_t first = begin, last; first < end; first = last) {
      last = std::min(end, first + Overlaps::kRowsInStep);
      parallel_for(last - first, (first - begin) * overlaps_.pair_cost(), [&](int64_t some, int64_t more) {
        for (int64_t row = first + some; row < first + more; ++row) compare(row, begin, first);
      });
      for (int64_t row = first; row < last; ++row) {
        compare(row, first, row);
        relief_[row] = decay_.relief(cover_[row]);
      }
    }
  }

  C operator[](int64_t row) const { return decay_.kept_part(smallest_[row]); }

 private:
  // Takes the pairs of a row with items [first, end) into account.
  void compare(int64_t row, int64_t first, int64_t end) {
    C cover[kLanes], smallest[kLanes];
    std::fill_n(cover, kLanes, cover_[row]);
    std::fill_n(smallest, kLanes, smallest_[row]);
    for (; first < end; first += kLanes) {
      C iou[kLanes];
      if (!overlaps_.ious(row, first, end, iou)) continue;
      const C* const relief = relief_.data() + first;
      HANDGRAD_SIMD
      for (int lane = 0; lane < kLanes; ++lane) {
        cover[lane] = larger(cover[lane], iou[lane]);
        smallest[lane] = smaller(smallest[lane], decay_.step(iou[lane], relief[lane]));
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      cover_[row] = larger(cover_[row], cover[lane]);
      smallest_[row] = smaller(smallest_[row], smallest[lane]);
    }
  }

  const Overlaps& overlaps_;
  const Decay decay_;
  std::vector<C> cover_, smallest_, relief_;
};

// The items in the order in which they are compared, and where in it each class begins; the last entry is the end.
struct Groups {
  std::vector<uint32_t> rows;
  std::vector<int64_t> begins;

  Groups(const std::vector<uint32_t>& order, const std::optional<Tensor>& classes) {  // [K]
    if (classes) {
      rows = order_by_class(order, *classes, begins);
    } else {
      rows = order;
      if (!order.empty()) begins.push_back(0);
    }
    begins.push_back(static_cast<int64_t>(order.size()));
  }
};

// By item, the part of its score that it keeps. Those whose score is NaN stand at the front of their class, and lower
// none.
template <class T, class Decay, class Overlaps>
std::vector<Compute<T>> kept_parts(const View<const T, 1>& scores, const Groups& groups, const Overlaps& overlaps,
                                   const Decay& decay, int64_t count) {
  using C = Compute<T>;
  const int64_t rows = static_cast<int64_t>(groups.rows.size()),
                classes = static_cast<int64_t>(groups.begins.size()) - 1;
  KeptParts<C, Decay, Overlaps> parts(overlaps, decay, rows);
  const int64_t each = rows / std::max<int64_t>(1, classes);
  parallel_for(classes, each * (each / 2) * overlaps.pair_cost(), [&](int64_t some, int64_t more) {
    for (int64_t k = some; k < more; ++k) {
      int64_t begin = groups.begins[k];
      const int64_t end = groups.begins[k + 1];
      const auto is_ordered = [&](int64_t row) {
        const C score = widen(*scores.at(groups.rows[row]));
        return score == score;
      };
      while (begin < end && !is_ordered(begin)) ++begin;
      parts.find(begin, end);
    }
  });
  std::vector<C> by_item(static_cast<size_t>(count));
  for (int64_t row = 0; row < rows; ++row) by_item[groups.rows[row]] = parts[row];
  return by_item;
}

// The items whose scores are above the limits, by decreasing decayed score (of equal ones in the order that they had),
// and those scores. make_overlaps(rows) returns the Overlaps of these items.
template <class T, class Decay, class MakeOverlaps>
std::tuple<Tensor, Tensor> decayed_scores(const Tensor& scores,                  // [K]
                                          const std::optional<Tensor>& classes,  // [K]
                                          const Limits<Compute<T>>& limits, const Counts& counts, const Decay& decay,
                                          const MakeOverlaps& make_overlaps) {
  using C = Compute<T>;
  using Key = decltype(descending_key(C()));
  const View<const T, 1> score_of = view<T, 1>(scores);
  const auto score = [&](uint32_t item) { return widen(*score_of.at(item)); };
  std::vector<uint32_t> order = order_by_score<T>(scores);
  order.resize(std::min(order.size(), static_cast<size_t>(counts.most)));
  std::erase_if(order, [&](uint32_t item) { return !limits.counts(score(item)); });
  const Groups groups(order, classes);
  const auto overlaps = make_overlaps(groups.rows);
  const std::vector<C> parts = kept_parts<T>(score_of, groups, overlaps, decay, scores.size(0));

  std::vector<C> decayed(order.size());
  std::vector<Entry<Key>> entries;
  entries.reserve(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    decayed[i] = score(order[i]) * parts[order[i]];
    if (!limits.returns(score(order[i]), decayed[i])) continue;
    entries.push_back({descending_key(decayed[i]), static_cast<uint32_t>(i)});
  }
  sort_by_key(entries);
  const int64_t chosen = std::min(static_cast<int64_t>(entries.size()), counts.returned);
  const Tensor indices_out = empty_indices(chosen, scores), scores_out = empty_contiguous(Sizes(&chosen, 1), scores);
  int64_t* const index = indices_out.mutable_data_ptr<int64_t>();
  T* const final_score = scores_out.template mutable_data_ptr<T>();
  for (int64_t k = 0; k < chosen; ++k) {
    const uint32_t i = entries[static_cast<size_t>(k)].index;
    index[k] = order[i];
    final_score[k] = narrow<T>(decayed[i]);
  }
  return {indices_out, scores_out};
}

}  // namespace handgrad::score_decay
