// One staging buffer: rows are copied in lock-free while it is open, and read once it is sealed.
//
// The ticket and the seal live in one atomic word, so that a row is either in the batch that is
// sealed or was never reserved:
//
//   bits 0..31 rows reserved   bit 32 sealed   bits 33..63 generation
//
//   free ──open()──▶ open ──reserve()*──▶ open ──seal()──▶ sealed ──recycle──▶ free
//                      └─ each reservation: copy the row, then commit()
//
// Proof sketch. reserve() succeeds only by a compare-exchange on an unsealed word of the generation
// it read, so after seal() the number of rows is final. Each reservation commits exactly once;
// seal() returns the number reserved, and the taker reads rows only after `committed` has reached
// it. A slab is never freed while its lane lives, so a late reserve() on a stale pointer reads a
// valid word and fails on its generation or seal.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "tidegate/batch.hpp"
#include "tidegate/clock.hpp"

namespace tidegate {

class Slab {
  public:
    Slab() = default;
    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;

    // -- submitting threads --

    /// Reserves between `least` and `most` contiguous rows. Returns the number, 0 if there is no
    /// room or the slab is not open; `index` is the first row.
    std::uint32_t reserve(std::uint32_t least, std::uint32_t most, std::uint32_t& index) noexcept {
        // acquire: pairs with open(), which wrote batch and columns of this generation.
        std::uint64_t word = word_.load(std::memory_order_acquire);
        for (;;) {
            if ((word & kSealed) != 0) return 0;
            const auto reserved = static_cast<std::uint32_t>(word);
            // Relaxed: a limit that has just changed may be missed by one reservation.
            const std::uint32_t limit = limit_.load(std::memory_order_relaxed);
            const std::uint32_t room = limit > reserved ? limit - reserved : 0;
            if (room < least || room == 0) return 0;
            const std::uint32_t count = most < room ? most : room;
            // seq_cst: a Dekker pair with Engine::await_work(): either the executor that goes to
            // sleep sees this row, or the submitter sees that it is idle.
            if (word_.compare_exchange_weak(word, word + count, std::memory_order_seq_cst,
                                            std::memory_order_acquire)) {
                index = reserved;
                return count;
            }
        }
    }

    /// Says that `count` reserved rows are copied.
    void commit(std::uint32_t count) noexcept {
#ifdef TIDEGATE_WEAKEN_COMMIT
        // A deliberate defect, to see that the stress tests notice it.
        committed_.fetch_add(count, std::memory_order_relaxed);
#else
        // release: pairs with all_committed(): the rows are visible to who reads them.
        committed_.fetch_add(count, std::memory_order_release);
#endif
    }

    // -- the engine, under its mutex --

    /// Makes a free slab open for its next generation.
    void open(Batch* batch, std::uint32_t limit) noexcept;
    /// Ends reserving; returns the rows reserved.
    std::uint32_t seal() noexcept {
        // acq_rel: orders the seal between the reservations before and the failed ones after.
        return static_cast<std::uint32_t>(word_.fetch_or(kSealed, std::memory_order_acq_rel));
    }
    /// Gives the slab memory for `capacity` rows in each column, and for `tokens.capacity` tokens
    /// in each ragged one. \pre free
    void attach(std::uint32_t capacity, std::vector<std::byte*> columns, void* owner,
                TokenMemory tokens = {});
    /// Takes the memory away; returns its owner. \pre free
    void* detach() noexcept;
    /// What its rows weigh together; of a weighed lane.
    const Weight& weight() const noexcept { return weight_; }
    /// Adds what row `index` weighs; returns where its tokens begin. \pre the last row reserved
    std::uint32_t add_weight(std::uint32_t index, Weight weight) noexcept {
        const std::uint32_t first = weight_.tokens;
        weight_.tokens += weight.tokens;
        weight_.cost += weight.cost;
        if (tokens_.offsets != nullptr) {
            tokens_.offsets[index + 1] = static_cast<std::int32_t>(weight_.tokens);
        }
        return first;
    }
    std::uint32_t token_capacity() const noexcept { return tokens_.capacity; }
    /// Whether it was sealed because the next row would have cost too much.
    bool sealed_for_cost() const noexcept { return sealed_for_cost_; }
    void set_sealed_for_cost() noexcept { sealed_for_cost_ = true; }

    // -- whoever took the batch --

    /// Where each row's tokens begin, and behind the last where they end; null without ragged rows.
    std::int32_t* offsets() const noexcept { return tokens_.offsets; }
    /// True once `reserved` rows are committed; their memory may then be read.
    bool all_committed(std::uint32_t reserved) const noexcept {
#ifdef TIDEGATE_WEAKEN_COMMIT
        return committed_.load(std::memory_order_relaxed) == reserved;
#else
        // acquire: pairs with commit().
        return committed_.load(std::memory_order_acquire) == reserved;
#endif
    }
    /// Yields until all_committed(); a copy of one row long at the most.
    void wait_committed(std::uint32_t reserved) const noexcept;

    std::uint32_t reserved() const noexcept {
        // seq_cst: the other half of the Dekker pair with reserve().
        return static_cast<std::uint32_t>(word_.load(std::memory_order_seq_cst));
    }
    std::uint64_t generation() const noexcept {
        return word_.load(std::memory_order_relaxed) >> kGenerationShift;
    }

    std::atomic<std::uint32_t>& limit() noexcept { return limit_; }
    std::uint32_t capacity() const noexcept { return capacity_; }
    bool attached() const noexcept { return owner_ != nullptr; }
    void* owner() const noexcept { return owner_; }
    std::byte* column(std::size_t index) const noexcept { return columns_[index]; }
    const std::vector<std::byte*>& columns() const noexcept { return columns_; }
    Batch* batch() const noexcept { return batch_; }

    /// When row `index` was submitted; written between its reserve() and commit().
    Nanos& submitted(std::uint32_t index) noexcept { return submitted_[index]; }
    /// When the first row came; kNever for the moment between its reservation and its store.
    std::atomic<Nanos>& oldest() noexcept { return oldest_; }
    /// Deadline of row `index`, kNever for none; read by the timer while rows still arrive.
    const std::atomic<Nanos>& deadline(std::uint32_t index) const noexcept {
        return deadlines_[index];
    }
    /// Says by when `count` rows from `index` must have been taken.
    void set_deadline(std::uint32_t index, std::uint32_t count, Nanos deadline) noexcept {
        // Relaxed: published by the exchange below, and to the taker by commit().
        for (std::uint32_t row = index; row < index + count; ++row) {
            deadlines_[row].store(deadline, std::memory_order_relaxed);
        }
        has_deadlines_.store(true, std::memory_order_relaxed);
        // Written even when it stays the same: Engine::expire() resets it by an exchange before it
        // looks at the rows, so it either sees these rows or is followed by this. seq_cst: also a
        // Dekker pair with Timer::run(); either arm() sees its reset, or on_timer() sees this.
        Nanos known = earliest_deadline_.load(std::memory_order_relaxed);
        while (!earliest_deadline_.compare_exchange_weak(known, deadline < known ? deadline : known,
                                                         std::memory_order_seq_cst,
                                                         std::memory_order_relaxed)) {
        }
    }
    std::atomic<Nanos>& earliest_deadline() noexcept { return earliest_deadline_; }

  private:
    static constexpr std::uint64_t kSealed = std::uint64_t{1} << 32;
    static constexpr int kGenerationShift = 33;

    std::atomic<std::uint64_t> word_{kSealed};
    std::atomic<std::uint32_t> limit_{0};
    alignas(64) std::atomic<std::uint32_t> committed_{0};
    std::atomic<Nanos> oldest_{kNever};
    std::atomic<Nanos> earliest_deadline_{kNever};
    std::atomic<bool> has_deadlines_{false};
    Batch* batch_ = nullptr;
    std::uint32_t capacity_ = 0;
    std::vector<std::byte*> columns_;
    void* owner_ = nullptr;
    TokenMemory tokens_;
    Weight weight_;                 // under the engine's mutex while open
    bool sealed_for_cost_ = false;  // under the engine's mutex
    std::unique_ptr<Nanos[]> submitted_;
    std::unique_ptr<std::atomic<Nanos>[]> deadlines_;
};

}  // namespace tidegate
