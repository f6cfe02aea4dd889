// Where threads wait for one another: barriers of a block, meetings of a warp, and what is said when one is missing.
#include "engine.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "../include/emulator/language.h"
#include "words.h"

namespace handgrad::emulator {

std::string Worker::name_of(unsigned thread) const { return text("thread ", triple(coordinates_[thread])); }

std::string Worker::place_text() const {
  return text("kernel ", request->name, ", block ", triple(blockIdx), ", ", name_of(thread_index()));
}

void Worker::fault(const std::string& message) {
  fault_ = text(place_text(), ": ", message);
  current_->fiber->switch_to(scheduler_);
  __builtin_trap();
}

// No thread can go on, and some have not returned.
void Worker::report_stuck() {
  struct Group {
    std::string where;
    unsigned first, size;
    bool barrier;
  };
  std::vector<Group> groups;
  for (unsigned t = 0; t < count; ++t) {
    const Thread& thread = threads_[t];
    std::string where;
    if (thread.status == Status::returned) {
      where = "returned from the kernel";
    } else if (thread.status == Status::at_barrier) {
      where = "waits at __syncthreads, " + place(thread.where);
    } else {
      where = text("waits at ", thread.function, " of mask ", hexadecimal(thread.mask), ", ", place(thread.where));
    }
    const auto known = std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.where == where; });
    if (known == groups.end()) {
      groups.push_back({where, t, 1, thread.status == Status::at_barrier});
    } else {
      ++known->size;
    }
  }
  // First those who wait, and the names in front are of one of them.
  std::stable_partition(groups.begin(), groups.end(),
                        [&](const Group& g) { return threads_[g.first].status != Status::returned; });
  bool barriers = false, meetings = false;
  for (const Group& group : groups) {
    if (threads_[group.first].status != Status::returned) (group.barrier ? barriers : meetings) = true;
  }
  std::string message = text("kernel ", request->name, ", block ", triple(blockIdx), ", ", name_of(groups[0].first),
                             !meetings   ? ": a barrier that not all threads of the block reach: "
                             : !barriers ? ": a meeting of a warp from which lanes are absent: "
                                         : ": threads that wait for one another: ");
  const size_t shown = std::min<size_t>(groups.size(), 6);
  for (size_t g = 0; g < shown; ++g) {
    message += text(g ? "; " : "", name_of(groups[g].first));
    if (groups[g].size > 1) message += text(" and ", groups[g].size - 1, groups[g].size == 2 ? " other" : " others");
    message += ": " + groups[g].where;
  }
  if (groups.size() > shown) message += text("; and ", groups.size() - shown, " more groups");
  fault_ = message;
  abandon();
  __builtin_unreachable();
}

Votes Worker::block_barrier(bool predicate, Place where) {
  Thread& self = *current_;
  self.status = Status::at_barrier;
  self.where = where;
  if (arrived_++ == 0) {
    barrier_place_ = where;
  } else if (!same(where, barrier_place_)) {
    diverged_ = true;
  }
  votes_ += predicate;
  if (arrived_ == count) {
    if (diverged_) {
      const Thread* other = &threads_[0];
      while (same(other->where, where)) ++other;
      fault(text("threads of one block wait at different barriers: this one at ", place(where), ", ",
                 name_of(static_cast<unsigned>(other - threads_.data())), " at ", place(other->where)));
    }
    last_votes_ = {votes_, count};
    arrived_ = votes_ = 0;
    ++phase;
    ++counters.barriers;
    last_barrier = where;
    if (schedule_.order == Schedule::random) permute();
    for (unsigned t = 0; t < count; ++t) {
      threads_[t].status = Status::ready;
      make_ready(t);
    }
  }
  wait();
  return last_votes_;
}

unsigned Worker::live_lanes() const { return ~gone_[thread_index() / kWarp]; }

void Worker::warp_meet(Collective kind, const char* function, unsigned mask, uint64_t brought, unsigned source,
                       Place where) {
  const unsigned me = thread_index(), warp = me / kWarp, lane = me % kWarp;
  if (!(mask >> lane & 1)) {
    fault(text(function, " at ", place(where), " with mask ", hexadecimal(mask), ", which leaves out the caller, lane ",
               lane));
  }
  Thread& self = *current_;
  self.status = Status::in_warp;
  self.kind = kind;
  self.function = function;
  self.where = where;
  self.mask = mask;
  self.source = source;
  self.brought = brought;
  kind == Collective::shuffle ? ++counters.shuffles : ++counters.warp_syncs;
  // Lanes that have returned need not come to other meetings; what a shuffle reads of them is undefined.
  if (const unsigned absent = mask & gone_[warp]; absent != 0 && kind == Collective::shuffle) {
    const unsigned other = static_cast<unsigned>(std::countr_zero(absent));
    fault(text(function, " at ", place(where), " with mask ", hexadecimal(mask), " names lane ", other, ", which ",
               warp * kWarp + other < count ? "has returned from the kernel" : "the block does not have"));
  }
  meeting_[warp] |= 1u << lane;
  try_release(warp, mask);
  wait();
}

// Lets the lanes of `mask` go if all of them have come to one meeting.
void Worker::try_release(unsigned warp, unsigned mask) {
  if (mask & ~(meeting_[warp] | gone_[warp])) return;
  Thread* lanes = threads_.data() + size_t{warp} * kWarp;
  const unsigned present = mask & ~gone_[warp];
  const Thread* any = nullptr;
  for (unsigned left = present; left != 0; left &= left - 1) {
    const Thread& lane = lanes[std::countr_zero(left)];
    if (lane.mask != mask || (any && any->kind != lane.kind)) return;
    any = &lane;
  }
  if (!any || (any->kind == Collective::shuffle && present != mask)) return;
  meeting_[warp] &= ~present;
  const Collective kind = any->kind;
  if (kind == Collective::syncwarp) {
    checks_syncwarp(*this, warp, present);
  } else if (kind != Collective::shuffle && tables_.empty()) {
    tables_.resize(size_t{device::threads_per_block} * kWarp);
  }
  for (unsigned left = present; left != 0; left &= left - 1) {
    const unsigned lane = static_cast<unsigned>(std::countr_zero(left));
    Thread& thread = lanes[lane];
    if (kind == Collective::shuffle) {
      thread.taken = mask >> thread.source & 1 ? lanes[thread.source].brought : ~uint64_t{0};
    } else if (kind != Collective::syncwarp) {
      uint64_t* table = tables_.data() + (size_t{warp} * kWarp + lane) * kWarp;
      for (unsigned other = 0; other < kWarp; ++other) {
        table[other] = present >> other & 1 ? lanes[other].brought : 0;
      }
    }
    thread.status = Status::ready;
    make_ready(warp * kWarp + lane);
  }
}

}  // namespace handgrad::emulator
