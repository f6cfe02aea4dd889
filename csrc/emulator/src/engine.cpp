// Launches, blocks, threads, barriers, meetings of a warp, and the sentences when they go wrong.
#include "engine.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "../include/emulator/language.h"
#include "../include/emulator/runtime_api.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

constinit thread_local uint3 threadIdx = {0, 0, 0};
constinit thread_local uint3 blockIdx = {0, 0, 0};
constinit thread_local dim3 blockDim = {1, 1, 1};
constinit thread_local dim3 gridDim = {1, 1, 1};

namespace handgrad::emulator {

namespace {

thread_local Worker* worker = nullptr;

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

std::string triple(const uint3& t) { return text('(', t.x, ", ", t.y, ", ", t.z, ')'); }

std::string place(Place where) {
  const char* slash = std::strrchr(where.file, '/');
  return text(slash ? slash + 1 : where.file, ':', where.line);
}

std::string hexadecimal(unsigned mask) {
  std::ostringstream out;
  out << "0x" << std::hex << mask;
  return out.str();
}

bool same(Place a, Place b) { return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0); }

// A small generator of known behaviour (splitmix64): a seed must mean the same order on every machine.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::mutex& dynamic_limits_mutex() {
  static std::mutex mutex;
  return mutex;
}
std::map<const void*, int>& dynamic_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

void check_limits(const LaunchRequest& r) {
  const auto refuse = [&](const auto&... parts) {
    throw std::runtime_error(
        text("kernel ", r.name, ": ", parts..., "; grid ", triple(r.grid), ", block ", triple(r.block)));
  };
  const uint64_t threads = uint64_t{r.block.x} * r.block.y * r.block.z;
  if (threads == 0) refuse("a block of no threads");
  if (r.grid.x == 0 || r.grid.y == 0 || r.grid.z == 0) refuse("a grid of no blocks");
  if (threads > device::threads_per_block) {
    refuse(threads, " threads per block, and the device allows ", device::threads_per_block);
  }
  if (r.block.x > device::block_x || r.block.y > device::block_y || r.block.z > device::block_z) {
    refuse("the device allows blocks up to (", device::block_x, ", ", device::block_y, ", ", device::block_z, ')');
  }
  if (r.grid.x > device::grid_x || r.grid.y > device::grid_y || r.grid.z > device::grid_z) {
    refuse("the device allows grids up to (", device::grid_x, ", ", device::grid_y, ", ", device::grid_z, ')');
  }
  if (r.bounds.max_threads != 0 && threads > r.bounds.max_threads) {
    refuse(threads, " threads per block, and its __launch_bounds__ promised at most ", r.bounds.max_threads);
  }
  if (r.dynamic_shared_bytes > device::shared_opt_in) {
    refuse(r.dynamic_shared_bytes, " bytes of dynamic shared memory, and the device has ", device::shared_opt_in,
           " per block");
  }
  if (r.dynamic_shared_bytes > device::shared_per_block) {
    const std::lock_guard lock(dynamic_limits_mutex());
    const auto found = dynamic_limits().find(r.kernel);
    const size_t allowed = found == dynamic_limits().end() ? 0 : static_cast<size_t>(found->second);
    if (r.dynamic_shared_bytes > std::max<size_t>(allowed, device::shared_per_block)) {
      refuse(r.dynamic_shared_bytes, " bytes of dynamic shared memory; above ", device::shared_per_block,
             " the kernel must be allowed to by cudaFuncSetAttribute(cudaFuncAttributeMaxDynamicSharedMemorySize)");
    }
  }
}

}  // namespace

Worker* active_worker() { return worker; }

Worker::Worker() : threads_(device::threads_per_block), coordinates_(device::threads_per_block) {
  order_.resize(device::threads_per_block);
  position_.resize(device::threads_per_block);
  constexpr size_t align = 1024;
  dynamic_.reset(new unsigned char[device::shared_opt_in + 2 * kDynamicMargin + align]);
  const uintptr_t start = reinterpret_cast<uintptr_t>(dynamic_.get()) + kDynamicMargin;
  dynamic_shared = reinterpret_cast<unsigned char*>((start + align - 1) / align * align);
}
Worker::~Worker() = default;

void Worker::begin(const LaunchRequest& launch, const Schedule& schedule) {
  request = &launch;
  counters = {};
  schedule_ = schedule;
  random_ = schedule.seed;
  count = launch.block.x * launch.block.y * launch.block.z;
  if (coordinates_of_.x != launch.block.x || coordinates_of_.y != launch.block.y ||
      coordinates_of_.z != launch.block.z) {
    coordinates_of_ = launch.block;
    unsigned linear = 0;
    for (unsigned z = 0; z < launch.block.z; ++z) {
      for (unsigned y = 0; y < launch.block.y; ++y) {
        for (unsigned x = 0; x < launch.block.x; ++x) coordinates_[linear++] = {x, y, z};
      }
    }
  }
  std::iota(order_.begin(), order_.begin() + count, uint16_t{0});
  if (schedule.order == Schedule::reverse) std::reverse(order_.begin(), order_.begin() + count);
  for (unsigned p = 0; p < count; ++p) position_[order_[p]] = static_cast<uint16_t>(p);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(dynamic_shared - kDynamicMargin, device::shared_opt_in + 2 * kDynamicMargin);
  __asan_unpoison_memory_region(dynamic_shared, launch.dynamic_shared_bytes);
#endif
  blockDim = launch.block;
  gridDim = launch.grid;
  launch_phase = phase + 1;
  fenced = false;
  checks_begin(*this);
}

void Worker::end() {
  request = nullptr;
  current_ = nullptr;
}

// A new order of the threads, once per barrier: between two barriers a thread may be anywhere before or after another.
void Worker::permute() {
  for (unsigned left = count; left > 1; --left) {
    std::swap(order_[left - 1], order_[next_random(random_) % left]);
  }
  for (unsigned p = 0; p < count; ++p) position_[order_[p]] = static_cast<uint16_t>(p);
}

void Worker::make_ready(unsigned thread) {
  const unsigned position = position_[thread], word = position / 64;
  ready_[word] |= uint64_t{1} << position % 64;
  first_ready_word_ = std::min(first_ready_word_, word);
}

Thread* Worker::pick() {
  while (first_ready_word_ < 16 && ready_[first_ready_word_] == 0) ++first_ready_word_;
  if (first_ready_word_ == 16) return nullptr;
  uint64_t& word = ready_[first_ready_word_];
  const unsigned position = first_ready_word_ * 64 + static_cast<unsigned>(std::countr_zero(word));
  word &= word - 1;
  return &threads_[order_[position]];
}

void Worker::enter(Thread& thread) {
  current_ = &thread;
  thread.status = Status::running;
  threadIdx = coordinates_[thread_index()];
}

Fiber* Worker::take_fiber() {
  if (free_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>(&Worker::fiber_main));
    return fibers_.back().get();
  }
  Fiber* fiber = free_.back();
  free_.pop_back();
  return fiber;
}

// The running thread cannot go on; another does, until this one can.
void Worker::wait() {
  Thread* self = current_;
  Thread* next = pick();
  if (next == self) {
    self->status = Status::running;
    return;
  }
  if (!next) {
    self->fiber->switch_to(scheduler_);
    return;
  }
  enter(*next);
  if (!next->fiber) next->fiber = take_fiber();
  self->fiber->switch_to(*next->fiber);
}

void Worker::run_current() {
  std::string thrown;
  try {
    request->run(request->arguments);
  } catch (const std::exception& error) {
    thrown = error.what();
    if (thrown.empty()) thrown = "an exception without a message";
  } catch (...) {
    thrown = "an exception of unknown type";
  }
  if (!thrown.empty()) fault(thrown);
  current_->status = Status::returned;
  ++returned_;
}

void Worker::fiber_main() {
  Worker* self = worker;
  Fiber* fiber = self->current_->fiber;
  for (;;) {
    self->run_current();
    // A meeting may have waited for nobody else: lanes that have returned are not waited for.
    const unsigned thread = self->thread_index(), warp = thread / kWarp;
    self->gone_[warp] |= 1u << thread % kWarp;
    if (const unsigned meeting = self->meeting_[warp]) {
      const unsigned lane = static_cast<unsigned>(std::countr_zero(meeting));
      self->try_release(warp, self->threads_[warp * kWarp + lane].mask);
    }
    Thread* next = self->pick();
    if (next && !next->fiber) {
      next->fiber = fiber;
      self->enter(*next);
      continue;
    }
    self->free_.push_back(fiber);
    if (next) {
      self->enter(*next);
      fiber->switch_to(*next->fiber);
    } else {
      fiber->switch_to(self->scheduler_);
    }
    // Taken from the free list again, with a new thread entered already.
  }
}

void Worker::run_block(uint64_t block) {
  block_number = block;
  const uint64_t x = gridDim.x, y = gridDim.y;
  blockIdx = {static_cast<unsigned>(block % x), static_cast<unsigned>(block / x % y),
              static_cast<unsigned>(block / (x * y))};
  block_phase = ++phase;
  last_barrier = {};
  for (unsigned t = 0; t < count; ++t) {
    threads_[t].fiber = nullptr;
    threads_[t].status = Status::fresh;
  }
  if (schedule_.order == Schedule::random) permute();
  for (unsigned word = 0; word < 16; ++word) {
    const unsigned bits = count > word * 64 ? std::min(64u, count - word * 64) : 0;
    ready_[word] = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  }
  first_ready_word_ = 0;
  for (unsigned warp = 0; warp < (count + kWarp - 1) / kWarp; ++warp) {
    meeting_[warp] = 0;
    gone_[warp] = count - warp * kWarp >= kWarp ? 0 : ~0u << (count - warp * kWarp);
  }
  arrived_ = votes_ = returned_ = 0;
  diverged_ = false;
  if (request->dynamic_shared_bytes != 0) std::memset(dynamic_shared, 0xff, request->dynamic_shared_bytes);

  Thread* first = pick();
  first->fiber = take_fiber();
  enter(*first);
  scheduler_.switch_to(*first->fiber);

  if (!fault_.empty()) abandon();
  if (returned_ != count) report_stuck();
  current_ = nullptr;
  counters.threads += count;
  ++counters.blocks;
}

// Leaves every thread where it is. Fibers are started afresh; device code owns nothing that would need unwinding.
void Worker::abandon() {
  current_ = nullptr;
  free_.clear();
  for (const auto& fiber : fibers_) {
    fiber->restart();
    free_.push_back(fiber.get());
  }
  std::string message;
  message.swap(fault_);
  throw std::runtime_error(message);
}

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

// ---- what device code calls -----------------------------------------------------------------------------------------

namespace {

Worker& running(const char* function) {
  if (!worker || !worker->in_kernel()) {
    throw std::runtime_error(text(function, " was called outside of a kernel"));
  }
  return *worker;
}

}  // namespace

Votes block_barrier(bool predicate, Place where) {
  Worker& self = running("__syncthreads");
  return is_dropped(where) ? Votes{predicate, 1} : self.block_barrier(predicate, where);
}

const uint64_t* warp_meet(Collective kind, const char* function, unsigned mask, uint64_t value, Place where) {
  Worker& self = running(function);
  self.warp_meet(kind, function, mask, value, kWarp, where);
  return kind == Collective::syncwarp ? nullptr : self.lane_table();
}

uint64_t warp_shuffle(const char* function, unsigned mask, uint64_t value, unsigned source, Place where) {
  Worker& self = running(function);
  self.warp_meet(Collective::shuffle, function, mask, value, source, where);
  return self.taken();
}

unsigned lane() { return running("a warp function").thread_index() % kWarp; }
unsigned live_lanes() { return running("__activemask").live_lanes(); }

void fault(const std::string& message) {
  if (worker && worker->in_kernel()) worker->fault(message);
  throw std::runtime_error(message);
}

void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (worker) worker->fenced = true;
}

long long clock() { return std::chrono::steady_clock::now().time_since_epoch().count(); }

void* dynamic_shared(size_t align) {
  Worker& self = running("HANDGRAD_DYNAMIC_SHARED");
  if (align > 1024) self.fault("dynamic shared memory is aligned to 1024 bytes at most");
  return self.dynamic_shared;
}

void require_launch_bounds(unsigned max_threads) {
  Worker& self = running("HANDGRAD_LAUNCH_BOUNDS");
  if (self.count > max_threads) {
    self.fault(text(self.count, " threads per block, and its __launch_bounds__ promised at most ", max_threads));
  }
}

void check_access(const void* address, size_t bytes, size_t align) {
  if ((reinterpret_cast<uintptr_t>(address) & (align - 1)) != 0) {
    fault(text("an access of ", bytes, " bytes to an address that is not a multiple of ", align, " (it is ",
               reinterpret_cast<uintptr_t>(address) % align, " past one)"));
  }
#if defined(__SANITIZE_ADDRESS__)
  if (const void* bad = __asan_region_is_poisoned(const_cast<void*>(address), bytes)) {
    fault(text("an access of ", bytes, " bytes that is out of bounds from byte ",
               static_cast<const char*>(bad) - static_cast<const char*>(address), " on"));
  }
#endif
}

void atomic_access(const void* address, size_t bytes, bool writes) {
  if (!worker) return;
  ++worker->counters.atomics;
  checks_atomic(address, bytes, writes);
}

void count_load(size_t bytes) {
  if (worker) worker->counters.bytes_loaded += bytes;
}
void count_store(size_t bytes) {
  if (worker) worker->counters.bytes_stored += bytes;
}

void poison(void* address, size_t bytes) { std::memset(address, 0xff, bytes); }

int64_t find_poison(const void* address, size_t bytes, size_t element_bytes) {
  const unsigned char* memory = static_cast<const unsigned char*>(address);
  for (size_t at = 0; at + element_bytes <= bytes; at += element_bytes) {
    if (std::all_of(memory + at, memory + at + element_bytes, [](unsigned char byte) { return byte == 0xff; })) {
      return static_cast<int64_t>(at / element_bytes);
    }
  }
  return -1;
}

// ---- launches -------------------------------------------------------------------------------------------------------

namespace {

// Workers are kept between launches: their fibers' stacks are warm.
std::mutex pool_mutex;
std::vector<std::unique_ptr<Worker>>& pool() {
  static std::vector<std::unique_ptr<Worker>> workers;
  return workers;
}

class Lease {
 public:
  Lease() {
    const std::lock_guard lock(pool_mutex);
    if (pool().empty()) {
      worker_ = std::make_unique<Worker>();
    } else {
      worker_ = std::move(pool().back());
      pool().pop_back();
    }
    worker = worker_.get();
  }
  ~Lease() {
    worker->end();
    worker = nullptr;
    const std::lock_guard lock(pool_mutex);
    pool().push_back(std::move(worker_));
  }

 private:
  std::unique_ptr<Worker> worker_;
};

// Blocks in the order of the schedule: i, from the end, or i * step + start modulo their number, which visits each once
// because step and number have no common factor.
struct BlockOrder {
  uint64_t blocks, step = 1, start = 0;

  BlockOrder(uint64_t count, const Schedule& schedule) : blocks(count) {
    if (schedule.order == Schedule::reverse) {
      step = blocks - 1;
      start = blocks - 1;
    } else if (schedule.order == Schedule::random) {
      uint64_t state = schedule.seed ^ 0xb10c0u;
      start = next_random(state) % blocks;
      do {
        step = next_random(state) % blocks + 1;
      } while (std::gcd(step, blocks) != 1);
    }
  }
  uint64_t operator[](uint64_t i) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(i) * step + start) % blocks);
  }
};

}  // namespace

void launch(const LaunchRequest& request) {
  if (worker) worker->fault("a launch from within a kernel, which the emulator does not have");
  check_limits(request);
  const Schedule schedule = current_schedule();
  const uint64_t blocks = uint64_t{request.grid.x} * request.grid.y * request.grid.z;
  const BlockOrder order(blocks, schedule);
  std::atomic<uint64_t> next{0}, faulty{UINT64_MAX};
  std::mutex mutex;
  std::string error;
  Counters total;

  // Schedules are about order, which several operating-system threads would undo; and below some size they do not pay.
  const uint64_t work = blocks * request.block.x * request.block.y * request.block.z;
  uint64_t helpers = schedule.order == Schedule::forward && work >= 16384 ? current_os_threads() - 1 : 0;
#if defined(__SANITIZE_ADDRESS__)
  helpers = 0;  // __shared__ is one static copy
#endif
  helpers = std::min(helpers, blocks - 1);
  const uint64_t run = std::max<uint64_t>(1, blocks / (64 * (helpers + 1)));

  const auto body = [&] {
    const Lease lease;
    Worker& self = *worker;
    try {
      self.begin(request, schedule);
      for (uint64_t from; (from = next.fetch_add(run)) < blocks;) {
        for (uint64_t i = from; i < std::min(blocks, from + run); ++i) {
          if (i > faulty.load(std::memory_order_relaxed)) break;
          try {
            self.run_block(order[i]);
          } catch (const std::exception& thrown) {
            // Of several faults the first block's is reported, whoever found it first.
            const std::lock_guard lock(mutex);
            if (i < faulty) {
              faulty = i;
              error = thrown.what();
            }
            next = blocks;
            break;
          }
        }
      }
    } catch (const std::exception& thrown) {  // no memory, say
      const std::lock_guard lock(mutex);
      if (error.empty()) error = thrown.what();
    }
    const std::lock_guard lock(mutex);
    const uint64_t* from = reinterpret_cast<const uint64_t*>(&self.counters);
    uint64_t* to = reinterpret_cast<uint64_t*>(&total);
    for (size_t c = 0; c < kCounters; ++c) to[c] += from[c];
  };

  std::vector<std::thread> threads;
  for (uint64_t h = 0; h < helpers; ++h) threads.emplace_back(body);
  body();
  for (std::thread& thread : threads) thread.join();
  total.launches = 1;
  add_counters(request.name, total);
  if (!error.empty()) throw std::runtime_error(error);
}

cudaError_t allow_dynamic_shared(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > static_cast<int>(device::shared_opt_in)) return cudaErrorInvalidValue;
  const std::lock_guard lock(dynamic_limits_mutex());
  dynamic_limits()[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace handgrad::emulator
