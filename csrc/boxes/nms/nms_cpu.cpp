// Non-maximum suppression on the CPU: one box after the other, from the highest score down, is compared with those kept
// so far, and is kept if none of them suppresses it.
//
// Only kept boxes that it meets can. They are found in a tree whose shape is known beforehand: all boxes are put in the
// order of a curve through their sizes and positions, 16 neighbours make a leaf, 16 leaves a node, and so on; each
// knows what the boxes kept so far below it cover. Looking at the 16 children of a node is a few vector instructions,
// and in a leaf as many more decide. All that the tree asks is whether extents meet, in comparisons without rounding:
// where a box stands in it is a question of time only, and the result is that of the plain double loop, whatever the
// boxes.
//
// Boxes of different classes never meet: each class is a tree of its own, and threads take classes. Where one class has
// much to compare, threads take boxes of it instead: a block of boxes is compared with all kept before the block at
// once, and then, in order, with those kept within it.
//
// In order of appearance: Node and Leaf, 16 children each; Candidate; KeptBoxes, the tree; the curve; keep, the
// decision for one class; the host entry.
#include <bit>

#include "abi/registration.h"
#include "cpu/parallel.h"
#include "cpu/score_order.h"
#include "cpu/sort.h"
#include "nms_host.h"

namespace handgrad::nms {
namespace {

// Children of a node: one vector of floats where vectors are widest.
constexpr int64_t kLanes = 16;
// Up to this many kept boxes, a flat list of leaves; then a tree.
constexpr int64_t kListed = 256;
// So many boxes are compared with what was kept before them in one step.
constexpr int64_t kBoxesInStep = 512;
// Where comparing a box looks at more nodes than this on average, threads share the work.
constexpr int64_t kBusyNodes = 64;

inline int64_t nodes_of(int64_t children) { return (children + kLanes - 1) / kLanes; }

// What 16 children cover; a child with nothing in it covers nothing.
template <class C>
struct alignas(64) Node {
  C x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes];

  Node() {
    constexpr C infinity = std::numeric_limits<C>::infinity();
    std::fill_n(x1, kLanes, infinity);
    std::fill_n(y1, kLanes, infinity);
    std::fill_n(x2, kLanes, -infinity);
    std::fill_n(y2, kLanes, -infinity);
  }

  // Bit i: child i meets the box.
  uint32_t meeting(const Box<C>& box) const {
    uint32_t bits = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool meets = (x1[lane] <= box.x2) & (box.x1 <= x2[lane]) & (y1[lane] <= box.y2) & (box.y1 <= y2[lane]);
      bits |= meets ? uint32_t{1} << lane : 0;
    }
    return bits;
  }

  void grow(int64_t lane, const Box<C>& box) {
    x1[lane] = smaller(x1[lane], box.x1);
    y1[lane] = smaller(y1[lane], box.y1);
    x2[lane] = larger(x2[lane], box.x2);
    y2[lane] = larger(y2[lane], box.y2);
  }
};

// The boxes of a leaf themselves.
template <class C>
struct alignas(64) Leaf {
  C x1[kLanes] = {}, y1[kLanes] = {}, x2[kLanes] = {}, y2[kLanes] = {}, area[kLanes] = {};

  void set(int64_t lane, const Box<C>& box, C box_area) {
    x1[lane] = box.x1;
    y1[lane] = box.y1;
    x2[lane] = box.x2;
    y2[lane] = box.y2;
    area[lane] = box_area;
  }

  bool suppresses(const Suppression<C>& rule, const Box<C>& box, C box_area) const {
    C intersection[kLanes], whole[kLanes];
    int32_t may = 0, does = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      intersection[lane] = intersection_of({x1[lane], y1[lane], x2[lane], y2[lane]}, box);
      whole[lane] = union_of(area[lane], box_area, intersection[lane]);
      may |= rule.may(intersection[lane], whole[lane]);
    }
    if (!may) return false;
    for (int lane = 0; lane < kLanes; ++lane) does |= rule.decides(intersection[lane], whole[lane]);
    return does;
  }
};

// A proper box, with what is asked of it more than once.
template <class C>
struct Candidate {
  Box<C> box, core;
  C area;
};

// The boxes kept so far of one class, each at the index it was given.
template <class C>
class KeptBoxes {
 public:
  // With room for indices below `lanes`; with nodes above the leaves, or as a list.
  KeptBoxes(const Suppression<C>& rule, int64_t lanes, bool as_tree) : rule_(rule) {
    int64_t nodes = nodes_of(lanes);
    leaves_.resize(static_cast<size_t>(nodes));
    levels_.emplace_back(static_cast<size_t>(nodes));
    while (as_tree && nodes > 1) {
      nodes = nodes_of(nodes);
      levels_.emplace_back(static_cast<size_t>(nodes));
    }
  }

  void add(int64_t index, const Candidate<C>& candidate) {
    leaves_[index / kLanes].set(index % kLanes, candidate.box, candidate.area);
    for (auto& level : levels_) {
      level[index / kLanes].grow(index % kLanes, candidate.core);
      index /= kLanes;
    }
  }

  // Whether one of them suppresses the candidate; adds the nodes it looked at to `visited`.
  bool suppress(const Candidate<C>& candidate, int64_t& visited) const {
    return suppress(candidate, levels_.back().size(), visited);
  }
  // The same of the first `roots` nodes of a list.
  bool suppress(const Candidate<C>& candidate, int64_t roots, int64_t& visited) const {
    for (int64_t root = 0; root < roots; ++root) {
      if (suppress_below(levels_.size() - 1, root, candidate, visited)) return true;
    }
    return false;
  }

  void clear(int64_t nodes) {
    std::fill_n(leaves_.begin(), nodes, Leaf<C>());
    std::fill_n(levels_[0].begin(), nodes, Node<C>());
  }

 private:
  bool suppress_below(size_t level, int64_t node, const Candidate<C>& candidate, int64_t& visited) const {
    ++visited;
    uint32_t bits = levels_[level][node].meeting(candidate.core);
    if (level == 0) return bits && leaves_[node].suppresses(rule_, candidate.box, candidate.area);
    for (; bits; bits &= bits - 1) {
      if (suppress_below(level - 1, node * kLanes + std::countr_zero(bits), candidate, visited)) return true;
    }
    return false;
  }

  Suppression<C> rule_;
  std::vector<Leaf<C>> leaves_;
  // From the leaves' own level up to the root.
  std::vector<std::vector<Node<C>>> levels_;
};

// The index of each candidate on a curve through all: large boxes before small ones, by powers of two of their longer
// side, and within a size along a Z-shaped curve, so that neighbours on the curve are neighbours in the plane.
template <class C>
std::vector<uint32_t> curve_indices(const std::vector<Candidate<C>>& candidates) {
  const auto middle = [](C a, C b) { return C(0.5) * a + C(0.5) * b; };
  constexpr C infinity = std::numeric_limits<C>::infinity();
  C left = infinity, top = infinity, right = -infinity, bottom = -infinity, longest = 0;
  for (const Candidate<C>& candidate : candidates) {
    const Box<C>& box = candidate.box;
    const C x = middle(box.x1, box.x2), y = middle(box.y1, box.y2);
    left = smaller(left, x);
    right = larger(right, x);
    top = smaller(top, y);
    bottom = larger(bottom, y);
    longest = larger(longest, larger(box.x2 - box.x1, box.y2 - box.y1));
  }
  // About as many cells as leaves.
  const int bits = std::clamp<int>(std::bit_width(candidates.size() / kLanes) / 2 + 1, 1, 10);
  const C cells = static_cast<C>(1 << bits);
  // Whatever the numbers are, the result is a cell: the order is allowed to be bad.
  const auto cell = [&](C x, C low, C high) {
    const C scaled = (x - low) / (high - low) * cells;
    return static_cast<uint32_t>(scaled > 0 ? smaller(scaled, cells - 1) : C(0));
  };
  const auto spread = [](uint32_t x) {
    x = (x | x << 8) & 0x00ff00ff;
    x = (x | x << 4) & 0x0f0f0f0f;
    x = (x | x << 2) & 0x33333333;
    return (x | x << 1) & 0x55555555;
  };
  const int largest_exponent = std::ilogb(longest);
  std::vector<Entry<uint32_t>> entries(candidates.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const Box<C>& box = candidates[i].box;
    const int exponent = std::ilogb(larger(box.x2 - box.x1, box.y2 - box.y1));
    const uint32_t size = static_cast<uint32_t>(std::clamp(largest_exponent - exponent, 0, 15));
    const uint32_t position =
        spread(cell(middle(box.x1, box.x2), left, right)) | spread(cell(middle(box.y1, box.y2), top, bottom)) << 1;
    entries[i] = {size << (2 * bits) | position, static_cast<uint32_t>(i)};
  }
  sort_by_key(entries);
  std::vector<uint32_t> indices(entries.size());
  for (size_t k = 0; k < entries.size(); ++k) indices[entries[k].index] = static_cast<uint32_t>(k);
  return indices;
}

// kept[i] = whether the i-th of the candidates, which come by decreasing score, is kept.
template <class C>
std::vector<uint8_t> keep(const std::vector<Candidate<C>>& candidates, const Suppression<C>& rule) {
  const int64_t count = static_cast<int64_t>(candidates.size());
  std::vector<uint8_t> kept(candidates.size());
  int64_t visited = 0, first = 0, length = 0;
  // As long as few are kept, a list is searched faster than a tree is made.
  KeptBoxes<C> list(rule, std::min(count, std::max(kListed, kBoxesInStep)), false);
  for (; first < count && length < kListed; ++first) {
    kept[first] = !list.suppress(candidates[first], nodes_of(length), visited);
    if (kept[first]) list.add(length++, candidates[first]);
  }
  if (first == count) return kept;

  const std::vector<uint32_t> indices = curve_indices(candidates);
  KeptBoxes<C> tree(rule, count, true);
  const auto add_kept = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (kept[i]) tree.add(indices[i], candidates[i]);
    }
  };
  add_kept(0, first);
  list.clear(nodes_of(length));
  bool busy = false;
  for (int64_t last = first; first < count; first = last) {
    last = std::min(count, first + kBoxesInStep);
    if (!busy) {
      visited = 0;
      for (int64_t i = first; i < last; ++i) {
        kept[i] = !tree.suppress(candidates[i], visited);
        if (kept[i]) tree.add(indices[i], candidates[i]);
      }
      busy = visited > kBusyNodes * (last - first);
      continue;
    }
    parallel_for(last - first, kBusyNodes * kLanes, [&](int64_t begin, int64_t end) {
      int64_t uncounted = 0;
      for (int64_t i = first + begin; i < first + end; ++i) kept[i] = !tree.suppress(candidates[i], uncounted);
    });
    // The list now holds what was kept in this step.
    length = 0;
    for (int64_t i = first; i < last; ++i) {
      kept[i] = kept[i] && !list.suppress(candidates[i], nodes_of(length), visited);
      if (kept[i]) list.add(length++, candidates[i]);
    }
    add_kept(first, last);
    list.clear(nodes_of(length));
  }
  return kept;
}

// Decides for the boxes of one class, order[begin] … order[end - 1], by decreasing score.
template <class T>
void keep_of_class(const View<const T, 2>& boxes,  // [K, 4]
                   const Suppression<Compute<T>>& rule, const std::vector<uint32_t>& order, int64_t begin, int64_t end,
                   std::vector<uint8_t>& kept) {
  using C = Compute<T>;
  std::vector<Candidate<C>> candidates;
  std::vector<uint32_t> rows;
  for (int64_t i = begin; i < end; ++i) {
    const Box<C> box = read_box(boxes, order[i]);
    const C area = area_of(box);
    // A box that is not proper is kept, and suppresses none.
    if (!is_proper(box, area)) continue;
    candidates.push_back({box, rule.core(box, area), area});
    rows.push_back(order[i]);
  }
  const std::vector<uint8_t> chosen = keep(candidates, rule);
  for (size_t i = 0; i < rows.size(); ++i) kept[rows[i]] = chosen[i];
}

Tensor nms_cpu(const Tensor& boxes,                // [K, 4]
               const Tensor& scores,               // [K]
               const std::optional<Tensor>& idxs,  // [K]
               double iou_threshold) {
  check_arguments(boxes, scores, idxs);
  const int64_t count = boxes.size(0);
  std::vector<uint8_t> kept(static_cast<size_t>(count), 1);
  std::vector<uint32_t> order;

  dispatch_floating(kOp, boxes.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Suppression<Compute<T>> rule(iou_threshold);
    order = order_by_score<T>(scores);
    std::vector<int64_t> begins;
    const std::vector<uint32_t> grouped = idxs ? order_by_class(order, *idxs, begins) : std::vector<uint32_t>();
    const std::vector<uint32_t>& ordered = idxs ? grouped : order;
    if (!idxs && count > 0) begins.push_back(0);
    const int64_t classes = static_cast<int64_t>(begins.size());
    begins.push_back(count);
    const View<const T, 2> table = view<T, 2>(boxes);
    parallel_for(classes, kLanes * count / std::max<int64_t>(1, classes), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) keep_of_class(table, rule, ordered, begins[k], begins[k + 1], kept);
    });
  });

  return kept_in_order(order, kept, boxes);
}

}  // namespace
}  // namespace handgrad::nms

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) { handgrad::implement<handgrad::nms::nms_cpu>(library, "nms"); }
