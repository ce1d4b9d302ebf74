// What is on offer: the models whose rows the front end puts into slots itself.
//
// A catalogue never changes; Python publishes another one. Workers keep the one they read a request
// with for as long as the request lives, and with it the batcher's engine.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "messages.hpp"
#include "tidegate/waist.hpp"

namespace tidegate::frontend {

/// One input or output: its name in the protocol, and how a row of it lies in memory.
struct TensorLayout {
    std::string name;
    std::string datatype;
    std::vector<std::int64_t> shape;  // of one row
    char kind = 0;                    // of an element, as NumPy names it
    std::size_t item_bytes = 0;
    std::size_t row_bytes = 0;
    bool typed = true;  // has a field in InferTensorContents
};

/// One model: where its rows go, and what they look like.
struct Offer {
    std::string model;
    std::string version;
    bool newest = true;  // answers for requests that name no version
    const Waist* waist = nullptr;
    Engine* engine = nullptr;  // Python keeps it alive while the offer lives
    Lane* lane = nullptr;
    std::size_t number = 0;  // how Python knows it
    Nanos default_timeout = kNever;
    std::uint32_t most_rows = 0;
    std::vector<TensorLayout> inputs;   // in the lane's order of columns
    std::vector<TensorLayout> outputs;  // in the order of the batch's outputs

    /// The index of the input of that name, -1 if there is none.
    int input(std::string_view name) const noexcept { return find(inputs, name); }
    int output(std::string_view name) const noexcept { return find(outputs, name); }

  private:
    static int find(const std::vector<TensorLayout>& tensors, std::string_view name) noexcept {
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            if (tensors[i].name == name) return static_cast<int>(i);
        }
        return -1;
    }
};

struct Catalogue {
    std::vector<std::shared_ptr<const Offer>> offers;
    std::size_t models = 0;  // all there are, also those that only Python serves

    /// The offer that a request means; null if Python is to answer it.
    const std::shared_ptr<const Offer>* find(std::string_view model,
                                             std::string_view version) const noexcept;
    /// The only model there is; null if there are several.
    const std::shared_ptr<const Offer>* only() const noexcept {
        return offers.size() == 1 && models == 1 ? &offers.front() : nullptr;
    }
};

/// A request, understood: which offer, how many rows, where the bytes of each input are, and what
/// the answer should look like.
struct Plan {
    const std::shared_ptr<const Offer>* offer = nullptr;
    std::uint32_t rows = 0;
    Nanos timeout = kNever;
    struct Source {
        std::string_view bytes;
        Contents contents = Contents::None;  // None: as they lie in memory
    };
    std::array<Source, kMostTensors> sources;  // by column of the lane
};

/// What is remembered of a request until its batch is done.
struct AnswerForm {
    bool predict = false;
    bool raw = false;
    std::uint8_t wanted_count = 0;
    std::array<std::uint8_t, kMostTensors> wanted{};
    std::uint32_t slot = 0;
    std::uint32_t rows = 0;
    std::string_view id;  // in the request's message
};

/// Fits a request to an offer. False if Python is to answer it.
bool make_plan(const Catalogue& catalogue, const InferRequest& request, Plan& plan,
               AnswerForm& form) noexcept;
bool make_plan(const Catalogue& catalogue, const PredictRequest& request, Plan& plan,
               AnswerForm& form) noexcept;

/// Copies the rows of a plan to where they were reserved. False if an element does not fit.
bool copy_rows(const Plan& plan, const Reservation& reservation) noexcept;

/// True if what the batch was answered with is what the offer promises.
bool keeps_promise(const Offer& offer, const OutputView* views, std::size_t count) noexcept;

/// Appends the answer's message. \pre keeps_promise()
void write_answer(const Offer& offer, const AnswerForm& form, const Batch* batch,
                  const OutputView* views, std::string& out);

}  // namespace tidegate::frontend
