// The threads of a block: fibers, their order, and which of them runs.
#include "engine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "../include/emulator/language.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

constinit thread_local uint3 threadIdx = {0, 0, 0};
constinit thread_local uint3 blockIdx = {0, 0, 0};
constinit thread_local dim3 blockDim = {1, 1, 1};
constinit thread_local dim3 gridDim = {1, 1, 1};

namespace handgrad::emulator {

constinit thread_local Worker* worker = nullptr;

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

}  // namespace handgrad::emulator
